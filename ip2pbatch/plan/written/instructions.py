"""Instructions for single photos, from a CSV: columns photo and instruction, and optionally more of an edit."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.written.recipe import EditSpec
from ip2pbatch.plan.written.spreadsheets import Table
from ip2pbatch.plan.written.yaml_source import Mistake, reword

COLUMNS = ("photo", "instruction", "id", "text", "image", "strength", "negative")
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
    table, found = Table(path, COLUMNS, COLUMNS[:2]), []
    _refuse_large(path)
    for line, row in table.rows():
        if table.separator == ";":
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


def _refuse_large(path: Path) -> None:
    """Raises RecipeError; what cannot be looked at says so when it is read."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise RecipeError(
            f"larger than {MAX_BYTES >> 20} MiB", file=path, hint="split it, a file for each folder of photos"
        )
