"""A folder of procedural pairs: one photo, its crops and their edits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PairFolder:
    """One crop with its edits: `names` are the families whose pictures are there."""

    path: Path
    names: tuple[str, ...]

    def picture(self, name: str) -> Path:
        """The JPEG of `source` or of a family."""
        return self.path / f"{name}.jpg"


def find_pairs(folder: Path) -> list[PairFolder]:
    """Every finished crop below `folder`, in the order of the names."""
    finished = sorted(note.parent for note in folder.glob("[0-9a-f]*/pair.json"))
    return [PairFolder(path, tuple(json.loads((path / "pair.json").read_text())["strengths"])) for path in finished]
