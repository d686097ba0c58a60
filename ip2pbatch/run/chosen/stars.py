"""Picks, stars and notes of a run's cells, in a file of the run directory that the studio writes and a report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.plan.edits import Edit, Strip
from ip2pbatch.run.directory.layout import Layout

MOST_STARS, MOST_NOTE = 5, 4000


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person thinks of a cell: whether it is picked, how many stars it has, 0 to 5, and a note."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    picked: bool = False
    stars: Annotated[int, Field(ge=0, le=MOST_STARS)] = 0
    note: Annotated[str, Field(max_length=MOST_NOTE)] = ""

    @property
    def said(self) -> str:
        """Its stars and its note in one line, "" where it has neither."""
        return " ".join(filter(None, ["★" * self.stars, self.note]))


NOTHING = Choice()
_ALL = TypeAdapter(dict[str, Choice])


def cell_id(strip: Strip, edit: Edit) -> str:
    """What the cell of an Edit is called: its key, and the strip's own strength in thousandths where it has one."""
    return edit.key if strip.strength is None else f"{edit.key}-{round(strip.strength * 1000)}"


def choices_file(layout: Layout) -> Path:
    """Where they lie: OUT/.ip2pbatch/choices.json, by the cell."""
    return layout.folder / "choices.json"


def read_choices(layout: Layout) -> dict[str, Choice]:
    """What was chosen; nothing where there is no file, or one that cannot be read."""
    try:
        return _ALL.validate_json(choices_file(layout).read_bytes())
    except (OSError, ValidationError):
        return {}


def write_choices(layout: Layout, choices: Mapping[str, Choice]) -> None:
    """Write all of them; what says nothing is left out. Raises ResourceError."""
    said = {cell: asdict(choice) for cell, choice in choices.items() if choice != NOTHING}
    text = json.dumps(said, ensure_ascii=False, indent=1)
    write_atomic(choices_file(layout), text.encode("utf-8", "surrogatepass"))
