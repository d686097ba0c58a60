"""The evaluate stage, `maker: magicbrush`: MagicBrush's test (arXiv 2306.10012), as its published script scores it.

    TEST/edit_sessions.json        {"139": [{"input": "139-input.png", "output": "139-output1.png", "instruction": …}]}
    TEST/local_descriptions.json   {"139": {"139-output1.png": "…"}}
    TEST/images/139/               139-input.png, 139-output1.png, …, and masks, which are not used
    generated/139/139_1.png        the first turn
                  139_inde_2.png   a turn from the true picture before it: single turn, with `_1`
                  139_iter_2.png   a turn from the model's own picture before it: multi turn, the last one counts

L1 and L2 (mean squared) are taken on pixels in 0…1 after the generated picture is resized to the true one's size;
CLIP-I and DINO are cosines between the two, CLIP-T between the generated picture and the local description, and its
oracle with the true picture. What the figures are sensitive to is kept: ViT-B/32 and dino_vits16, each with its own
preprocessing.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.engine.editor import to_uint8
from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.measures.clip import Clip
from ip2pbatch.measures.dino import Dino
from ip2pbatch.pictures.images import save_png
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.estimates import EDIT_STEPS, Estimate, work_of
from ip2pbatch.train.judge.bootstrap import intervals
from ip2pbatch.train.judge.methods import Instruct, Sample, Setting
from ip2pbatch.train.model_names import ModelName
from ip2pbatch.train.stage import Stage, unread

VERSION = 2  # 2: pictures are edited at the size that the published script takes, a block of 64 px less at some
VIT_B_32, VIT_S_16 = "openai/clip-vit-base-patch32", "facebook/dino-vits16"
METRICS = ("l1", "l2", "clip-i", "dino", "clip-t", "clip-t_oracle")


class Config(BaseModel):
    """What is measured: pictures that are made with `model`, or were `generated` elsewhere in the same layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["magicbrush"]
    test: Path  # the unpacked test set
    model: ModelName | None = None  # one of the stage's inputs, a folder, or a model of the hub
    generated: Path | None = None
    text: float = 7.5
    image: float = 1.5
    steps: int = 100
    resolution: int = 512
    seed: int = 42
    batch: int = Field(8, ge=1, exclude=True)  # edits a call
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip: ModelName = ModelName(VIT_B_32)
    dino: ModelName = ModelName(VIT_S_16)
    resamples: int = 1000


@dataclass(frozen=True)
class Turn:
    """One edit of a session: the true pictures before and after, what is asked, and what the second one shows."""

    session: str
    number: int  # from 1
    before: Path
    after: Path
    instruction: str
    description: str

    def generated(self, kind: Literal["inde", "iter"]) -> str:
        """Where a model's picture lies below the generated folder."""
        name = "1" if self.number == 1 else f"{kind}_{self.number}"
        return f"{self.session}/{self.session}_{name}.png"


def read_sessions(test: Path) -> list[list[Turn]]:
    """Every session's turns. RecipeError where a file is missing or a description is."""
    sessions, descriptions = read_object(test / "edit_sessions.json"), read_object(test / "local_descriptions.json")
    found = []
    for session, rows in sessions.items():
        turns = []
        for number, row in enumerate(rows, start=1):
            folder = test / "images" / row["input"].split("-")[0]
            description = descriptions.get(folder.name, {}).get(row["output"])
            if description is None:
                raise RecipeError(
                    f"has no description of {row['output']}",
                    file=test / "local_descriptions.json",
                    key=session,
                    hint="unpack the test set again",
                )
            pictures = folder / row["input"], folder / row["output"]
            turns.append(Turn(folder.name, number, *pictures, row["instruction"], description))
        found.append(turns)
    if not found:
        raise NothingMatchedError(f"{test / 'edit_sessions.json'} has no session", hint="unpack the test set again")
    return found


def read_object(
    path: Path, hint: str = "give the folder with images/, edit_sessions.json and local_descriptions.json as `test`"
) -> dict[str, Any]:  # fmt: skip
    """A JSON object. RecipeError where it is none or is not there, with a hint at what should be."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot be read: {error}", file=path, hint=hint) from error
    if not isinstance(found, dict):
        raise RecipeError(f"holds a {type(found).__name__}, not an object", file=path, hint="unpack the test set again")
    return found


def fitted_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Width and height that the published script edits at: multiples of 64, the short side's meant to be rounded up.

    Its arithmetic is kept: a product that floats put just below a multiple of 64 loses a block, at 6 of 100 sizes.
    """
    factor = resolution / max(size)
    factor = math.ceil(min(size) * factor / 64) * 64 / min(size)
    width, height = (int(length * factor // 64) * 64 for length in size)
    return width, height


def fit(picture: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """The picture at that size, the rest of the longer side cropped away."""
    size = fitted_size(picture.size, resolution)
    return np.asarray(ImageOps.fit(picture.convert("RGB"), size, method=Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Task:
    """One picture to make: from which, and where to."""

    turn: Turn
    source: Path
    target: Path


def generate(sessions: Sequence[Sequence[Turn]], method: Instruct, config: Config, folder: Path) -> int:
    """Make the pictures that are missing, one seed for all as the original does; how many could not be made.

    First every turn from the true picture before it, then the second turns from the models' own, then the third ones:
    what does not wait for another picture shares calls.
    """
    single = [Task(turn, turn.before, folder / turn.generated("inde")) for turns in sessions for turn in turns]
    failed = make(single, method, config, "single turn")
    for number in range(2, max(map(len, sessions)) + 1):
        steps = [turns[number - 2 : number] for turns in sessions if len(turns) >= number]
        tasks = [Task(turn, *(folder / one.generated("iter") for one in (last, turn))) for last, turn in steps]
        failed += make([task for task in tasks if task.source.exists()], method, config, f"turn {number} of its own")
    return failed


def make(tasks: Sequence[Task], method: Instruct, config: Config, name: str) -> int:
    """Edit what is not there yet, pictures of one size together; how many could not be made."""
    failed = 0
    missing = [task for task in tasks if not task.target.exists()]
    with tqdm(total=len(missing), desc=name, mininterval=5) as bar:
        for part in of_one_size(missing, config):
            samples = []
            for task in part:
                with Image.open(task.source) as opened:
                    photo = fit(opened, config.resolution)
                samples.append(Sample(str(task.target), photo, task.turn.instruction, ("", ""), config.seed))
            for task, picture in zip(part, method.edit(samples, config.image), strict=True):
                failed += picture is None
                if picture is not None:
                    task.target.parent.mkdir(parents=True, exist_ok=True)
                    save_png(to_uint8(picture[None]), task.target)
            bar.update(len(part))
    return failed


def of_one_size(tasks: Iterable[Task], config: Config) -> Iterator[list[Task]]:
    """The tasks in calls of at most `batch`, those of a call alike in the size that the model works at."""
    groups: dict[tuple[int, int], list[Task]] = defaultdict(list)
    for task in tasks:
        with Image.open(task.source) as opened:
            groups[fitted_size(opened.size, config.resolution)].append(task)
    for group in groups.values():
        yield from (group[begin : begin + config.batch] for begin in range(0, len(group), config.batch))


def pairs_of(sessions: Sequence[Sequence[Turn]], generated: Path) -> dict[str, list[tuple[Path, Turn]]]:
    """The pictures of both settings with their turns. RecipeError names a picture that is missing."""
    single = [(generated / turn.generated("inde"), turn) for turns in sessions for turn in turns]
    multi = [(generated / turns[-1].generated("iter"), turns[-1]) for turns in sessions]
    for path, _ in single + multi:
        if not path.is_file():
            hint = "every session needs ID_1.png, ID_inde_2.png … and ID_iter_2.png …"
            raise RecipeError("is missing", file=path, hint=hint)
    return {"all_turn": single, "final_turn": multi}


@dataclass(frozen=True)
class Judge:
    """The networks, and what each makes of a picture file; a true picture is looked at once."""

    clip: Clip
    dino: Dino

    def score(self, path: Path, turn: Turn) -> tuple[float, ...]:
        """METRICS of one picture."""
        with Image.open(path) as one, Image.open(turn.after) as other:
            made, true = one.convert("RGB"), other.convert("RGB")
        l1, l2 = pixel_distances(made, true)
        clip = self.clip.images(
            torch.stack([crop(picture, self.clip.side, self.clip.side) for picture in (made, true)])
        )
        dino = self.dino.images(torch.stack([crop(picture, 256, 224) for picture in (made, true)]))
        text = self.clip.texts([turn.description])[0]
        return (l1, l2, float(clip[0] @ clip[1]), float(dino[0] @ dino[1]), *(clip @ text).tolist())


def pixel_distances(made: Image.Image, true: Image.Image) -> tuple[float, float]:
    """Mean absolute and mean squared difference in 0…1, `made` resized to the true picture's size (bicubic)."""
    pair = [np.asarray(picture, dtype=np.float64) / 255 for picture in (made.resize(true.size), true)]
    difference = pair[0] - pair[1]
    return float(np.abs(difference).mean()), float(np.square(difference).mean())


def crop(picture: Image.Image, short: int, side: int) -> Tensor:
    """`[3, side, side]` as torchvision does: the short side to `short` px (bicubic, antialiased), then the middle."""
    width, height = picture.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    resized = picture.resize(size, Image.Resampling.BICUBIC) if min(width, height) != short else picture
    left, top = (round((length - side) / 2) for length in resized.size)
    pixels = np.asarray(resized.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def measure(pairs: Mapping[str, Sequence[tuple[Path, Turn]]], judge: Judge) -> dict[str, NDArray[np.float64]]:
    """Both settings' scores `[pictures, METRICS]`; a picture of both is scored once."""
    known: dict[Path, tuple[float, ...]] = {}

    def scores(found: Iterable[tuple[Path, Turn]]) -> Iterator[tuple[float, ...]]:
        for path, turn in found:
            if path not in known:
                known[path] = judge.score(path, turn)
            yield known[path]

    return {name: np.array(list(scores(tqdm(found, desc=name, mininterval=5)))) for name, found in pairs.items()}


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Make what is missing, score it, write evaluation_metrics.json (the published script's) and report.md."""
    sessions = read_sessions(config.test)
    generated = config.generated or folder / "generated"
    if config.generated is None:
        method = Instruct(model_of(config, inputs), config.text, Setting(config.steps, precision=config.precision))
        if failed := generate(sessions, method, config, generated):
            raise NothingMatchedError(f"{failed} pictures could not be made", hint="try `precision: fp32`")
    found = measure(pairs_of(sessions, generated), Judge(Clip.load(config.clip), Dino.load(config.dino)))
    means = {name: dict(zip(METRICS, scores.mean(axis=0).tolist(), strict=True)) for name, scores in found.items()}
    write_whole(folder / "evaluation_metrics.json", (json.dumps(means, indent=4) + "\n").encode())
    write_whole(folder / "report.md", to_markdown(found, config.resamples).encode())
    return {f"{name} {metric}": value for name, row in means.items() for metric, value in row.items()}


def model_of(config: Config, inputs: Mapping[str, Path]) -> str:
    """The model that makes the pictures: an input's, or the one that is named."""
    if config.model is None:
        raise RecipeError(
            "names neither a model nor generated pictures", file="evaluate", key="model", hint="give one of them"
        )
    return str(inputs[config.model] / "model") if config.model in inputs else config.model


def to_markdown(found: Mapping[str, NDArray[np.float64]], resamples: int) -> str:
    """The table of the paper, with 95 % intervals."""
    names = {"all_turn": "single turn", "final_turn": "multi turn"}
    lines = ["| setting | pictures | L1 | L2 | CLIP-I | DINO | CLIP-T | CLIP-T of the truth |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, scores in found.items():
        cells = [f"{one.mean:.4f} ± {(one.high - one.low) / 2:.4f}" for one in intervals(scores, resamples)]
        lines.append(f"| {names[name]} | {len(scores)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from unread(inputs, [settings.model], "as `model`")
    if (settings.model is None) == (settings.generated is None):
        said = "or generated: one of them says whose pictures are judged, and only one"
        yield Mistake(said, hint="model: one of the inputs, a folder or a hub id; or generated: FOLDER", at=("model",))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Every turn from the true picture, and the later ones from the model's own."""
    sessions = read_sessions(settings.test)
    edits = sum(2 * len(turns) - 1 for turns in sessions) if settings.generated is None else 0
    work = edits * work_of(settings.steps, settings.resolution)
    return replace(counts, makes=f"{edits:,} edits, {len(sessions):,} sessions judged", work=work, unit=EDIT_STEPS)


STAGE = Stage(Config, run, VERSION, check=check, estimate=estimate)
