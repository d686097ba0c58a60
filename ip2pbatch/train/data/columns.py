"""Sets of edits in other people's words: which column holds the picture before, the one after, and what is asked.

    columns: omniedit                      one of PRESETS, or a mapping:
    columns: {source: before.png, edited: after.png, instruction: txt}
    columns: {turns: data, source: input_images, edited: output_images, instruction: prompt, images: .}
    columns: {source: source_image, edited: "edit_image_{turn}", instruction: "instruction_{turn}"}

Without `columns`, parquet files are read by the names that InstructPix2Pix's, MagicBrush's and diffusers' sets have.
A cell of pictures is a file's bytes, as `datasets` writes them too, or a path below `images`; of a list of texts the
first one counts. A row with several turns is as many pairs: a numbered turn begins with the picture that the one
before made.

Rows of one caption, instruction and edited caption are one prompt with as many pairs, as in the releases; where a set
has no captions each pair is a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ip2pbatch.disk.contents import digest_of_contents
from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.plan.written.yaml_source import Mistake, suggest
from ip2pbatch.train.data.broken import BrokenSampleError
from ip2pbatch.train.data.hub_rows import open_hub_rows
from ip2pbatch.train.data.lines_and_tars import LineRows, TarRows
from ip2pbatch.train.data.parquet import ParquetRows, open_parquet, parquet_below
from ip2pbatch.train.model_names import HubSet

TURN = "{turn}"
MOST_TURNS = 20  # of numbered columns, where each row has its own
# What a pair's row is called in the releases, by its name in `columns`.
RELEASED = {"instruction": "edit", "source_caption": "input", "edited_caption": "output"}
KNOWN = {
    "source": ("input_image", "original_image", "source_img"),
    "edited": ("edited_image", "target_img"),
    "instruction": ("edit_prompt", "edit", "instruction"),
    "source_caption": ("original_prompt", "input", "caption"),
    "edited_caption": ("edited_prompt", "output"),
}
NEEDED = ("source", "edited", "instruction")


def _unset(value: Any) -> bool:
    return value is None


class Columns(BaseModel):
    """Where a row has what. A name with {turn} stands for as many columns, from 1; without it in `source`, that is
    the picture before the first turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    edited: str
    instruction: str
    source_caption: str | None = Field(None, exclude_if=_unset)
    edited_caption: str | None = Field(None, exclude_if=_unset)
    turns: str | None = Field(None, exclude_if=_unset)  # a list of turns, each with the columns above
    images: str | None = Field(None, exclude_if=_unset)  # the folder below the data that paths of pictures lead from
    files: str | None = Field(None, exclude_if=_unset)  # which files, below the data: Parquet/*.parquet

    @property
    def numbered(self) -> bool:
        """Whether the columns of the turns are numbered."""
        return TURN in self.edited

    def roles(self) -> dict[str, str]:
        """What is known of a pair, and its column."""
        named = {name: getattr(self, name) for name in KNOWN}
        return {name: column for name, column in named.items() if column is not None}


# The layouts that were published; docs/training.md says what each was checked against.
PRESETS = {
    "instructpix2pix": Columns(
        source="original_image", edited="edited_image", instruction="edit_prompt",
        source_caption="original_prompt", edited_caption="edited_prompt",
    ),
    "magicbrush": Columns(source="source_img", edited="target_img", instruction="instruction"),
    "ultraedit": Columns(
        source="source_image", edited="edited_image", instruction="edit_prompt",
        source_caption="source_caption", edited_caption="target_caption",
    ),
    "hq-edit": Columns(
        source="input_image", edited="output_image", instruction="edit",
        source_caption="input", edited_caption="output",
    ),
    "omniedit": Columns(source="src_img", edited="edited_img", instruction="edited_prompt_list"),
    "imgedit": Columns(source="input_images", edited="output_images", instruction="prompt", images="."),
    "imgedit-multiturn": Columns(
        turns="data", source="input_images", edited="output_images", instruction="prompt", images=".",
    ),
    "seed-data-edit": Columns(
        source="source_image", edited="target_image", instruction="instruction", images="images",
        files="annotations/*.jsonl",
    ),
    "seed-data-edit-multiturn": Columns(
        source="source_image", edited="edit_image_{turn}", instruction="instruction_{turn}", images="images",
        files="annotations/*.jsonl",
    ),
}  # fmt: skip


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        hint = suggest(value, list(PRESETS)) or f"presets are {', '.join(PRESETS)}"
        raise Mistake(f"{value!r} is no preset", hint=hint)
    return PRESETS[value]


ColumnsOrPreset = Annotated[Columns, BeforeValidator(_preset)]


class Rows(Protocol):
    """Rows of files, by their number from 0."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        ...

    @property
    def ragged(self) -> bool:
        """Whether a row may have columns that the first row of its file has not; a column that is not there is None."""
        ...

    @property
    def distant(self) -> bool:
        """Whether files are fetched when they are read, and few are kept: then rows are best read file by file."""
        ...

    def __len__(self) -> int: ...

    def digests(self) -> list[str]:
        """What each file's contents are known by."""
        ...

    def names(self) -> Sequence[Sequence[str]]:
        """The columns of each file."""
        ...

    def file_of(self, row: int) -> int:
        """Which file a row is in."""
        ...

    def read(self, row: int, columns: Sequence[str], heavy: bool) -> Mapping[str, Any]:
        """Some columns of one row; `heavy` where there are pictures among them."""
        ...

    def place(self, row: int) -> str:
        """Where a row lies, for a message."""
        ...


def open_rows(path: Path, pattern: str | None = None) -> Rows:
    """The tars, parquet or JSONL files of a folder, or one file. NothingMatchedError where there are none."""
    named = sorted(path.glob(pattern)) if pattern and path.is_dir() else []
    if pattern and path.is_dir() and not named:
        raise NothingMatchedError(
            f"{path} has no {pattern}", hint="`files` of `columns` is read from the data's folder"
        )
    every = named or ([path] if path.is_file() else [])
    if tars := [one for one in every or sorted(path.glob("*.tar")) if one.suffix == ".tar"]:
        return TarRows(tars)
    if lines := [one for one in every or sorted(path.glob("*.jsonl")) if one.suffix == ".jsonl"]:
        return LineRows(lines)
    files = every or parquet_below(path) or sorted(path.glob("**/*.parquet"))
    if not files:
        raise NothingMatchedError(
            f"{path} has no tar, parquet or JSONL file", hint="`files: FOLDER/*.parquet` names them"
        )
    return ParquetRows(files)


class ColumnStore:
    """Rows as pairs. RecipeError where a column is missing, naming the file and its columns.

    `images` is the folder that paths of pictures lead from; without it pictures must lie in the rows.
    """

    def __init__(self, rows: Rows, columns: Columns | None = None, images: Path | None = None) -> None:
        self.rows, self.images, self.named = rows, images, columns
        self.names = list(rows.names())
        both = zip(self.names, rows.paths, strict=True)
        self.columns = [require(columns, names, path) if columns else found(names, path) for names, path in both]
        self.pairs = self._pairs()
        self.groups = self._group()
        self._keys = {
            pair: f"{prompt:07d}-{number}"
            for prompt, group in enumerate(self.groups)
            for number, pair in enumerate(group)
        }

    def files_of(self) -> np.ndarray | None:
        """The file of each pair where files are fetched one at a time; None where all are here."""
        if not self.rows.distant:
            return None
        return np.array([self.rows.file_of(row) for row in self.pairs[:, 0].tolist()], np.int64)

    def _pairs(self) -> np.ndarray:
        """Row and turn of each pair, `[n, 2]`."""
        count = len(self.rows)
        if self.named is None or not (self.named.turns or self.named.numbered):
            return np.stack([np.arange(count), np.zeros(count, np.int64)], axis=1)
        pairs = [(row, turn) for row in range(count) for turn in self._turns(row)]
        return np.array(pairs, np.int64).reshape(-1, 2)

    def _turns(self, row: int) -> Iterator[int]:
        """The turns of a row: of a list those with both pictures, of numbered columns those up to the first without."""
        columns = self.columns[self.rows.file_of(row)]
        if columns.turns is None:
            numbered = self._numbered(row, columns.instruction)
            said = self.rows.read(row, numbered, False)
            yield from takewhile(lambda turn: bool(said[numbered[turn]]), range(len(numbered)))
            return
        for turn, held in enumerate(self.rows.read(row, [columns.turns], False)[columns.turns] or ()):
            if not isinstance(held, dict):
                wrong = f"its {columns.turns} holds a {type(held).__name__} where a turn is expected"
                raise RecipeError(wrong, file=self.rows.place(row), hint="`turns` names a column with a list of turns")
            if held.get(columns.source) and held.get(columns.edited):
                yield turn

    def _group(self) -> list[list[int]]:
        """The pairs of each prompt, in the order in which prompts first come; texts of all rows are read for it."""
        if not all(columns.source_caption and columns.edited_caption for columns in self.columns):
            return [[pair] for pair in range(len(self.pairs))]
        groups: dict[bytes, list[int]] = {}
        for pair in range(len(self.pairs)):
            row = self.row(pair)
            said = json.dumps([row.get(name) for name in ("input", "edit", "output")])
            groups.setdefault(hashlib.blake2b(said.encode(), digest_size=16).digest(), []).append(pair)
        return list(groups.values())

    def _numbered(self, row: int, name: str) -> list[str]:
        """The columns that a name with {turn} stands for in a row's file, from 1 as far as there are any."""
        if self.rows.ragged:
            return [name.replace(TURN, str(turn)) for turn in range(1, MOST_TURNS + 1)]
        return numbered(name, self.names[self.rows.file_of(row)])

    def _cells(self, pair: int, roles: Sequence[str], heavy: bool) -> Iterator[Any]:
        """What a pair has in each of these roles; None where it is not there."""
        row, turn = self.pairs[pair].tolist()
        columns = self.columns[self.rows.file_of(row)]
        named = [in_turn(columns, role, turn) for role in roles]
        if columns.turns:
            held = self.rows.read(row, [columns.turns], heavy)[columns.turns][turn]
            yield from (held.get(name) for name in named)
            return
        read = self.rows.read(row, list(dict.fromkeys(named)), heavy)
        yield from (read[name] for name in named)

    def row(self, pair: int) -> dict[str, Any]:
        """The instruction, and the captions where the set has them."""
        columns = self.columns[self.rows.file_of(int(self.pairs[pair, 0]))]
        roles = [role for role in RELEASED if role in columns.roles()]
        texts = zip(roles, map(text_of, self._cells(pair, roles, False)), strict=True)
        return {RELEASED[role]: text for role, text in texts if text is not None}

    def files(self, pair: int) -> tuple[bytes, bytes]:
        """Both picture files. BrokenSampleError where a row has none, or several."""
        before, after = self._cells(pair, ("source", "edited"), True)
        return self._bytes(pair, before), self._bytes(pair, after)

    def _bytes(self, pair: int, value: Any) -> bytes:
        if isinstance(value, list):
            if len(value) != 1:
                hint = "rows with several pictures before one edit are another task: leave their files out with `files`"
                raise BrokenSampleError(f"has {len(value)} pictures for one", file=self.place(pair), hint=hint)
            value = value[0]
        cell = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
        if isinstance(cell, str) and cell and self.images is not None:
            try:
                return (self.images / cell).read_bytes()
            except OSError as error:
                said = f"its picture {self.images / cell} cannot be read: {error.strerror or error}"
                hint = "paths in the rows lead from `images` of `columns`; unpack the set's archives there"
                raise BrokenSampleError(said, file=self.place(pair), hint=hint) from error
        if not isinstance(cell, bytes):
            hint = "pictures must lie in the file, or say with `images` of `columns` where paths lead from"
            raise BrokenSampleError("has no picture in it", file=self.place(pair), hint=hint)
        return cell

    def key(self, pair: int) -> str:
        """0000012-0: the prompt and the place among its pairs."""
        return self._keys[pair]

    def place(self, pair: int) -> str:
        """The row, and the turn (from 1) where it has several."""
        row, turn = self.pairs[pair].tolist()
        several = self.named is not None and (self.named.turns or self.named.numbered)
        return self.rows.place(row) + (f" turn {turn + 1}" if several else "")

    def digest(self) -> str:
        """Of the files' bytes in their order, of how they are read, and of what is in the folder of pictures."""
        facts = self.rows.digests()
        if self.named is not None:
            facts = [*facts, self.named.model_dump_json()]
        if self.images is not None:
            facts = [*facts, digest_of_contents(self.images)]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def open_columns(path: Path | HubSet, columns: Columns | None) -> ColumnStore:
    """The set below `path` or of the hub, read by these columns; by the names that are known where there are none."""
    if isinstance(path, HubSet):
        return ColumnStore(open_hub_rows(path, columns.files if columns else None), columns)
    if columns is None:
        return ColumnStore(ParquetRows(parquet_below(path)))
    folder = path if path.is_dir() else path.parent
    return ColumnStore(open_rows(path, columns.files), columns, folder / columns.images if columns.images else None)


def text_of(value: Any) -> str | None:
    """A text, the first of a list of them, or the text in a file's bytes; None where there is none."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip()
    return value if isinstance(value, str) else None


def in_turn(columns: Columns, role: str, turn: int) -> str:
    """The column of a role in a turn (from 0). Numbered turns begin with the picture that the one before made."""
    if role == "source" and columns.numbered and TURN not in columns.source:
        return columns.source if turn == 0 else columns.edited.replace(TURN, str(turn))
    return columns.roles()[role].replace(TURN, str(turn + 1))


def numbered(name: str, known: Sequence[str]) -> list[str]:
    """The columns that a name with {turn} stands for, from 1 as far as there are any."""
    found: list[str] = []
    while (one := name.replace(TURN, str(len(found) + 1))) in known:
        found.append(one)
    return found


def require(columns: Columns, names: Sequence[str], path: Path) -> Columns:
    """The columns where the file has all of them. RecipeError names the first that it has not."""
    wanted = [columns.turns] if columns.turns else list(columns.roles().values())
    for name in (one.replace(TURN, "1") for one in wanted):
        if name not in names:
            hint = suggest(name, list(names)) or f"its columns are {', '.join(names)}"
            raise RecipeError(f"has no column {name}", file=path, hint=hint)
    return columns


def found(names: Sequence[str], path: Path) -> Columns:
    """Which of a file's columns has what, by the names that are known. RecipeError where one is missing."""
    chosen: dict[str, str] = {}
    for role, known in KNOWN.items():
        column = next((name for name in known if name in names), None)
        if column is not None:
            chosen[role] = column
        elif role in NEEDED:
            hint = f"say with `columns` which of them it is: {', '.join(names)}"
            raise RecipeError(f"has no column {' or '.join(known)}", file=path, hint=hint)
    return Columns(**chosen)


def columns_of_data(key: str, data: Path | HubSet | None, columns: Columns | None) -> Iterator[Mistake]:
    """`columns` says how data of others are read: what the chain's own stages made needs none. Of parquet files that
    are here the first one must have them; tars and sets of the hub are too long to look into before a stage begins."""
    if columns is None:
        return
    if data is None:
        yield Mistake(f"says how `{key}` is read, and there is none", hint=f"{key}: FOLDER", at=("columns",))
        return
    if isinstance(data, HubSet):
        if columns.images is not None:
            hint = f"fetch the set (`hf download --repo-type dataset {data.hub[0]}`), unpack it and give its folder"
            yield Mistake("pictures that lie beside a set of the hub, packed, are not read there", hint=hint, at=(key,))
        return
    named = sorted(data.glob(columns.files)) if columns.files else parquet_below(data)
    first = next((path for path in named if path.suffix == ".parquet"), None)
    if first is None or not first.is_file():
        return  # what is not there is told of elsewhere
    try:
        require(columns, open_parquet(first).schema_arrow.names, first)
    except RecipeError as error:
        yield Mistake(str(error), hint=error.hint, at=("columns",))
