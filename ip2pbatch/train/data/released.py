"""The files of the paper's releases: captions as JSON lines, and folders of pairs. One place that knows their names.

captions.jsonl                {"input", "edit", "output", "url"}; the authors' generator called the first `caption`
dataset/0000012/prompt.json   the same for one prompt
dataset/0000012/<seed>_0.jpg  before, <seed>_1.jpg after
dataset/0000012/metadata.jsonl  {"seed", "p2p_threshold", "cfg_scale", "clip_sim_0", …}, a line a sample
dataset/seeds.json            [["0000012", [seed, …]], …]: which pictures there are
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.errors import MAY_READ, NothingMatchedError, RecipeError
from ip2pbatch.measures.clip import Similarities
from ip2pbatch.plan.shard import Shard

CAPTIONS, DATASET, SEEDS, PROMPT, METADATA = "captions.jsonl", "dataset", "seeds.json", "prompt.json", "metadata.jsonl"
# Input caption, instruction, edited caption: the keys of the human-written file, and of the authors' generator.
INPUT_KEYS = ("input", "caption")
Chroma = Literal["full", "half"]  # what a JPEG keeps of the colour
SCORES = tuple(one.name for one in fields(Similarities))
BEFORE, AFTER = "_0.jpg", "_1.jpg"


@dataclass(frozen=True)
class Prompt:
    """One line of captions. `number` is its line, from 0, and names its folder of pairs."""

    number: int
    input: str
    edit: str
    output: str
    url: str | None = None

    @property
    def folder(self) -> str:
        """`0000012`."""
        return f"{self.number:07d}"

    @property
    def captions(self) -> tuple[str, str]:
        """What the picture shows before and after."""
        return self.input, self.output

    def row(self) -> dict[str, Any]:
        """As released: without the number, and without a URL where there is none."""
        return {key: value for key, value in asdict(self).items() if key != "number" and value is not None}


@dataclass(frozen=True)
class Sample:
    """One pair of a prompt: how it was made and, once judged, its similarities. `extra` is what others wrote beside."""

    seed: int
    p2p_threshold: float | None = None
    cfg_scale: float | None = None
    similarities: Similarities | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Its line of `metadata.jsonl`."""
        made = {"seed": self.seed, "p2p_threshold": self.p2p_threshold, "cfg_scale": self.cfg_scale}
        scores = asdict(self.similarities) if self.similarities else {}
        return {key: value for key, value in made.items() if value is not None} | scores | dict(self.extra)


@dataclass(frozen=True)
class PromptFolder:
    """A prompt's folder: every sample that has a line or pictures, and the seeds that have both pictures."""

    path: Path
    prompt: Prompt
    samples: tuple[Sample, ...]
    pictured: frozenset[int]

    def picture(self, seed: int, side: int) -> Path:
        """The file of the picture before (0) or after (1)."""
        return self.path / f"{seed}{(BEFORE, AFTER)[side]}"


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, row) of a JSONL file. RecipeError with the line where one is no object or is cut short."""
    try:
        with path.open("rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, parse_row(text, path, line)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=path, hint=MAY_READ) from error


def parse_row(text: bytes, path: Path, line: int) -> dict[str, Any]:
    """One line as an object."""
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}, not an object")
    except ValueError as error:
        cut = "" if text.endswith(b"\n") else ", and the file ends in it: it was cut short"
        hint = "mend or remove this line, or fetch the file again; nothing that was made before is lost"
        raise RecipeError(f"is not a row of JSON{cut} ({error})", file=path, line=line, column=1, hint=hint) from error
    return row


def prompt_of(
    row: Mapping[str, Any], number: int, path: Path, line: int, needed: Sequence[str] = ("input", "edit", "output")
) -> Prompt:
    """A row as a Prompt, under either name of the input caption. RecipeError where a needed text is missing."""
    first = next((key for key in INPUT_KEYS if key in row), INPUT_KEYS[0])
    texts = {"input": row.get(first), "edit": row.get("edit"), "output": row.get("output")}
    for key in needed:
        value = texts[key]
        if not isinstance(value, str) or not value.strip():
            hint = f"a row has {' or '.join(INPUT_KEYS)}, edit and output; this one has {', '.join(row) or 'nothing'}"
            raise RecipeError("is missing or no text", file=path, line=line, column=1, key=key, hint=hint)
    url = row.get("url")
    known = {key: value if isinstance(value, str) else "" for key, value in texts.items()}
    return Prompt(number, **known, url=url if isinstance(url, str) else None)


def read_prompts(path: Path) -> list[Prompt]:
    """Every prompt of a captions file, numbered from 0. RecipeError with its place where one is bad."""
    found = [prompt_of(row, number, path, line) for number, (line, row) in enumerate(read_jsonl(path))]
    if not found:
        raise NothingMatchedError(f"{path} has no prompt", hint="a JSONL file has one object a line")
    return found


def prompts_of(folder: Path) -> Path:
    """The captions file of a captions stage's folder, or the file itself."""
    return folder / CAPTIONS if folder.is_dir() else folder


def dataset_of(folder: Path) -> Path:
    """The pairs below a stage's folder, or a released folder itself."""
    return folder / DATASET if (folder / DATASET).is_dir() else folder


def jpeg(pixels: np.ndarray, chroma: Chroma = "full") -> bytes:
    """uint8 `[h, w, 3]` at quality 100 as in the releases; those have the colour at half of the resolution."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100, subsampling="4:4:4" if chroma == "full" else "4:2:0")
    return stream.getvalue()


def write_prompt(
    dataset: Path, prompt: Prompt, samples: Sequence[Sample], pictures: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> Path:
    """A prompt's folder, whole or not there: every sample's line, and by seed the pictures (uint8 `[h, w, 3]`) that
    are kept. A folder that is there is finished and stays. ResourceError where the disk is full."""
    final, partial = dataset / prompt.folder, dataset / f".{prompt.folder}"
    if final.is_dir():
        return final
    shutil.rmtree(partial, ignore_errors=True)
    for seed, pair in pictures.items():
        for suffix, pixels in zip((BEFORE, AFTER), pair, strict=True):
            write_whole(partial / f"{seed}{suffix}", jpeg(pixels))
    write_whole(partial / METADATA, "".join(json.dumps(one.row()) + "\n" for one in samples).encode())
    write_whole(partial / PROMPT, (json.dumps(prompt.row(), ensure_ascii=False) + "\n").encode())
    partial.rename(final)
    return final


def read_prompt_folder(path: Path) -> PromptFolder:
    """One prompt's folder, ours or released; sets of edits without captions have them empty.

    RecipeError naming the file and line where something is wrong.
    """
    number = int(path.name) if path.name.isdigit() else 0
    note = path / PROMPT
    try:
        prompt = prompt_of(parse_row(note.read_bytes() + b"\n", note, 1), number, note, 1, ("edit",))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=note, hint=MAY_READ) from error
    samples = {}
    lines = path / METADATA
    if lines.exists():
        for line, row in read_jsonl(lines):
            sample = sample_of(row, lines, line)
            samples[sample.seed] = sample  # the authors' generator appends again when it is run again
    pictured = pictured_seeds(path)
    for seed in sorted(pictured - samples.keys()):
        samples[seed] = Sample(seed)
    return PromptFolder(path, prompt, tuple(samples.values()), frozenset(pictured))


def sample_of(row: Mapping[str, Any], path: Path, line: int) -> Sample:
    """A line of `metadata.jsonl`. RecipeError where it has no seed."""
    if not isinstance(row.get("seed"), int):
        raise RecipeError(
            "is missing or no number", file=path, line=line, column=1, key="seed", hint="mend or remove this line"
        )
    judged = all(isinstance(row.get(name), int | float) for name in SCORES)
    scores = Similarities(*(float(row[name]) for name in SCORES)) if judged else None
    known = {"seed", "p2p_threshold", "cfg_scale", *SCORES}
    extra = {key: value for key, value in row.items() if key not in known}
    return Sample(row["seed"], row.get("p2p_threshold"), row.get("cfg_scale"), scores, extra)


def pictured_seeds(path: Path) -> set[int]:
    """The seeds of which both pictures are there."""
    names = {one.name for one in path.iterdir()}
    found = (re.fullmatch(r"(\d+)_0\.jpg", name) for name in names)
    return {int(one[1]) for one in found if one and f"{one[1]}{AFTER}" in names}


def prompt_folders(dataset: Path, shard: Shard | None = None) -> list[Path]:
    """The prompts' folders in the order of their names, or a shard's part of them."""
    if not dataset.is_dir():
        raise NothingMatchedError(f"no folder {dataset}", hint="give a folder that holds 0000000/prompt.json and so on")
    found = sorted(one for one in dataset.iterdir() if one.name[0] != "." and (one / PROMPT).is_file())
    if not found:
        raise NothingMatchedError(
            f"no pairs in {dataset}", hint="a prompt has a folder with prompt.json, <seed>_0.jpg and <seed>_1.jpg"
        )
    return [one for number, one in enumerate(found) if shard is None or shard.owns_row(number)]


def write_seeds(dataset: Path, seeds: Mapping[str, Sequence[int]]) -> None:
    """`seeds.json` as `prepare_dataset.py` writes it: folders without a picture are left out."""
    listing = [[name, sorted(seeds[name])] for name in sorted(seeds) if seeds[name]]
    write_whole(dataset / SEEDS, (json.dumps(listing) + "\n").encode())


def read_seeds(dataset: Path) -> list[tuple[str, list[int]]]:
    """`seeds.json`, or what it would say where it was never written. RecipeError where it is broken."""
    path = dataset / SEEDS
    if not path.exists():
        found = ((one.name, sorted(pictured_seeds(one))) for one in prompt_folders(dataset))
        return [(name, seeds) for name, seeds in found if seeds]
    try:
        return [(str(name), [int(seed) for seed in seeds]) for name, seeds in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as error:
        hint = "delete it: it is then read from the folders"
        raise RecipeError(f"is no list of [folder, [seed, …]] ({error})", file=path, hint=hint) from error
