"""Instructions for single photos, from a CSV: columns photo and instruction, and optionally more of an edit."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ip2pbatch.errors import MAY_READ, RecipeError
from ip2pbatch.plan.written.recipe import EditSpec
from ip2pbatch.plan.written.yaml_source import Mistake, reword, suggest

COLUMNS = ("photo", "instruction", "id", "text", "image", "strength")
MAX_BYTES = 64 << 20
_COMMA = r"[-+]?\d+(?:,\d+)?"
_DECIMAL = re.compile(rf"{_COMMA}(?:\s*\.\.\s*{_COMMA}(?:\s*by\s*{_COMMA})?)?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One row: an edit for the photo of that name; `file` and `line` are for messages."""

    photo: str
    edit: EditSpec
    file: Path
    line: int


def read_instructions(path: Path) -> list[Instruction]:
    """The rows of an instructions file, in order. Raises RecipeError with the line.

    Comma, semicolon or tab separate the columns (spreadsheets write all three; with semicolons `7,5` is a decimal,
    beside the others it is asked back); empty lines and rows without an instruction are skipped, so that a list of
    all photos can be filled in here and there.
    """
    text = _text(path)
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    rows = _rows(path, text, delimiter)
    header = [cell.strip().lower() for cell in next(rows, (1, []))[1]]
    for place, name in enumerate(header):
        if name not in COLUMNS:
            hint = suggest(name, COLUMNS) or f"known are: {', '.join(COLUMNS)}"
            column = 1 + sum(len(before) + 1 for before in header[:place])
            raise RecipeError(f"unknown column {name!r}", file=path, line=1, column=column, hint=hint)
    missing = [name for name in COLUMNS[:2] if name not in header]
    if missing:
        raise RecipeError(f"no column {missing[0]!r}", file=path, line=1, hint="the first line is: photo,instruction")
    found = []
    for line, cells in rows:
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
        if len(cells) > len(header):
            raise RecipeError(
                f"{len(cells)} cells, the header has {len(header)}", file=path, line=line, hint="quote commas in text"
            )
        if delimiter == ";":
            row |= {name: _decimals(row[name]) for name in ("text", "image", "strength") if name in row}
        if "instruction" in row:
            found.append(_instruction(row, path, line))
    return found


def _instruction(row: dict[str, str], path: Path, line: int) -> Instruction:
    photo = unicodedata.normalize("NFC", row.pop("photo", "").replace("\\", "/").removeprefix("./"))
    if not photo:
        raise RecipeError(
            "an instruction without a photo", file=path, line=line, hint="name it in the column photo, or empty the row"
        )
    try:
        return Instruction(photo, EditSpec.model_validate(row), path, line)
    except ValidationError as error:
        one = error.errors(include_url=False)[0]
        cause = one.get("ctx", {}).get("error")
        why, hint = (cause.why, cause.hint) if isinstance(cause, Mistake) else reword(dict(one))
        key = next((str(part) for part in one["loc"] if part in COLUMNS), "")
        raise RecipeError(why, file=path, line=line, column=1, key=key, hint=hint) from None


def _decimals(numbers: str) -> str:
    """Numbers as spreadsheets write them that part columns by semicolons: `7,5` is seven and a half."""
    return numbers.replace(",", ".") if _DECIMAL.fullmatch(numbers) else numbers


def _text(path: Path) -> str:
    """What is in the file. Raises RecipeError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=path, hint=MAY_READ) from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError("not UTF-8 text", file=path, line=line, column=1, hint="save it as CSV UTF-8") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"larger than {MAX_BYTES >> 20} MiB", file=path, hint="split it, a file for each folder of photos"
        )
    return text


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        line = max(reader.line_num, 1)
        hint = 'close every quote; a quote inside a quoted text is written twice: ""'
        raise RecipeError(str(error), file=path, line=line, column=1, hint=hint) from None
