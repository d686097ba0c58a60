"""Watches a run that anybody writes: what its journals say more is told, and where its plan is another, all is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ip2pbatch.disk.journal import state_of
from ip2pbatch.errors import Ip2pError
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.lines import RECORD, Record
from ip2pbatch.run.directory.view import RunView, read_run

_AT_ONCE = 8 << 20  # bytes of a journal that are read in one look


@dataclass(slots=True)
class Following:
    """The newest run in an output folder, from one look to the next. To be used from one thread.

    `read` hears of a run that was read whole: the first one, one whose plan grew, one that was begun afresh. `told`
    hears of Records that came since.
    """

    out: Path
    read: Callable[[RunView], None]
    told: Callable[[list[Record]], None]
    layout: Layout | None = None
    _asked: tuple[object, ...] = ()
    _places: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def look(self, *, plans: bool = True) -> bool:
        """Whether anything was new. Plans are not looked at while whoever asks writes them."""
        folders = run_folders(self.out)
        if not folders or not Layout(folders[-1]).is_run():
            return False
        layout = Layout(folders[-1])
        if self.layout != layout or (plans and self._plan_state(layout) != self._asked):
            return self._read_all(layout)
        return self._read_more()

    def forget(self) -> None:
        """All is to be read at the next look."""
        self._asked = ()

    def _plan_state(self, layout: Layout) -> tuple[object, ...]:
        return tuple((path.name, state_of(path)) for path in sorted(layout.folder.glob("sessions*.jsonl")))

    def _read_all(self, layout: Layout) -> bool:
        self._asked, self.layout = self._plan_state(layout), layout
        for path in layout.folder.glob("results*.jsonl"):
            found = path.stat()
            self._places[path] = found.st_ino, found.st_size
        try:
            self.read(read_run(self.out))
        except Ip2pError:  # half of it is there: it is looked at again when it is more
            return False
        return True

    def _read_more(self) -> bool:
        assert self.layout is not None
        new: list[Record] = []
        for path in sorted(self.layout.folder.glob("results*.jsonl")):
            new += self._lines_of(path)
        if new:
            self.told(new)
        return bool(new)

    def _lines_of(self, path: Path) -> list[Record]:
        """What was added to a journal in whole lines; all of one that was set aside and written anew."""
        try:
            with path.open("rb") as file:
                inode, size = (found := os.fstat(file.fileno())).st_ino, found.st_size
                known, place = self._places.get(path, (inode, 0))
                place = place if known == inode and place <= size else 0
                if place == size:
                    return []
                file.seek(place)
                data = file.read(_AT_ONCE)
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._places[path] = inode, place + len(whole)
        return [record for line in whole.splitlines(keepends=True) if (record := RECORD(line)) is not None]
