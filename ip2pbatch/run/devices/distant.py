"""The run directory as a worker has it: pictures it writes itself, records and deliveries go to the clerk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import Anchor, write_atomic
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.files_at import prefix_at
from ip2pbatch.run.devices.wire import Deal, Load
from ip2pbatch.run.directory.books import Delivered
from ip2pbatch.run.directory.kept import Kept, digest_of
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.directory.log import RunLog
from ip2pbatch.run.directory.records import Done, Records

Write = Callable[[tuple[Record, ...], tuple[Delivery, ...]], Callable[[], None]]
"""Has the clerk write these; what comes back returns when they are on the disk, or raises ResourceError."""


class DistantRun(Run):
    """A Run that another process holds the lock of, and `of` a group knows the Edits and files of that alone.

    `tell` hears what a run notes down.
    """

    _write: Write
    _unheard: list[Callable[[], None]]
    _apart: bool  # on another machine, whose loss takes what its disk was not asked for

    def __init__(self, load: Load, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.root, self.layout, self.spec, self.shard = load.root, Layout(load.folder), load.spec, None
        self.files = load.files
        if is_object(self.files):  # a worker knows what it is dealt, and need not list all there is
            prefix_at(self.files).listed = False
        self.device, self._apart = load.device, bool(load.seen)
        self._say = tell
        self.complaints = []
        with ExitStack() as held:
            self.anchor, self._inside = (held.enter_context(closing(Anchor(path))) for path in (load.root, load.folder))
            held.enter_context(closing(RunLog(self.layout.log(None))))
            self._held = held.pop_all()

    def of(self, deal: Deal, write: Write) -> DistantRun:
        """The same for a group, which `write` has the clerk write down; this one is closed for all."""
        run = copy(self)
        run._write, run._unheard = write, []
        run._telling, run._booking = threading.RLock(), threading.Lock()
        run.records = Records.held(deal.records)
        run.done = Done(run.records)
        run.deliveries, run.announced = Delivered.held(deal.deliveries.values(), deal.earlier), dict(deal.announced)
        return run

    def note(self, event: str, **detail: Any) -> None:
        """What is noted is the parent's to write; a session ends with it, and not with a group."""
        if event != "end":
            self._say(event, detail)

    def sweep(self, folders: Iterable[Path]) -> None:
        """Nothing: others are at work in them."""

    def announce(self, *deliveries: Delivery) -> None:
        self._write((), tuple(replace(one, begun=True) for one in deliveries))()

    def deliver(self, *deliveries: Delivery) -> None:
        """Waited for by `settle`: where it is never heard, the file is known by its announcement."""
        with self._booking:
            self._unheard.append(self._write((), deliveries))
            for one in deliveries:
                self.deliveries.add(one)

    def _record(self, *records: Record) -> None:
        with self._telling:
            self._write(records, ())()
            self.records.update({record.edit: record for record in records})

    def _keep(self, path: Path, data: bytes) -> Kept:
        """The clerk has the disk take pictures and latents with their records, where it is this machine's; a photo at
        model size has none.
        """
        write_atomic(path, data, root=self._inside, lasting=self._apart or path.is_relative_to(self.layout.sources))
        return Kept(path, digest_of(data))

    def settle(self) -> None:
        """Return when the clerk has heard of all files; what it wrote is on its disk then. Raises ResourceError."""
        while self._unheard:
            self._unheard.pop()()

    def close(self) -> None:
        """Close the files; the lock is the parent's."""
        self._held.close()


class Names:
    """The names of a plan's files, which the parent knows: it is asked where a name is taken by another file alone."""

    def __init__(self, ask: Callable[[str], bool]) -> None:
        self._ask = ask

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._ask(name)
