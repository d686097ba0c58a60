"""The one owner of a run directory: header, results, deliveries, locks. See DESIGN.md, "The run directory".

    with open_run(Path("out"), spec) as run:
        run.begin_session(plan, invocation)
        run.commit(edit, image, latent, seconds=1.2)       # picture first, record second
        run.fail(edit.key, "failed", "the photo cannot be read")

Done means that the lossless picture is on the disk, whole: a record whose picture is missing, or has another size in
bytes than was written, does not count. `--fresh` opens another run directory beside the old one (`.ip2pbatch-2`, then
`-3`): readers use the newest, and the files that an older one delivered are then strangers to it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ip2pbatch.disk.atomic import Anchor, disk_error, strays, sweep, unreadable, write_atomic
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.files_at import prefix_at
from ip2pbatch.disk.journal import Damage, Journal, sealed_lines, set_aside, state_of
from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.disk.settling import Settling
from ip2pbatch.errors import DamagedError, UsageError
from ip2pbatch.pictures import lossless
from ip2pbatch.pictures.sizing import LIFT
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.shard import Shard, suffix
from ip2pbatch.run.directory import kept
from ip2pbatch.run.directory.books import read_books
from ip2pbatch.run.directory.header import FORMAT, checked_header
from ip2pbatch.run.directory.kept import Kept, Latent, Pixels
from ip2pbatch.run.directory.layout import Layout, fresh_folder, refuse_address, run_folders
from ip2pbatch.run.directory.lines import Delivery, EngineSpec, Header, Invocation, Record, Status
from ip2pbatch.run.directory.log import RunLog
from ip2pbatch.run.directory.photo_numbers import PhotoNumbers, read_numbers
from ip2pbatch.run.directory.records import Done, read_records
from ip2pbatch.run.directory.sessions import next_line
from ip2pbatch.run.directory.stored_plans import GrowingPlan, store_plan

DAMAGED = ".damaged"  # the end of the name of what is set aside
_STALE = 3600.0  # seconds after which a temp file is nobody's work even where other shards may be writing
log = logging.getLogger("ip2pbatch.run")


def open_run(
    root: Path, spec: EngineSpec, *, shard: Shard | None = None, fresh: bool = False,
    defaults: ModelDefaults | None = None, registers: bool = True, lift: int = LIFT, files: str = "",
) -> Run:  # fmt: skip
    """Open the newest run in the output folder `root` for writing, or start one; `fresh` starts another beside it.

    `defaults` are its model's own, which a new run keeps (see kept_defaults.py), as it does `registers`, `lift` and
    `files`, the address below which files are delivered, "" for `root`.

    Raises LockedError where another process writes to it, UsageError for another engine, ResourceError for the disk.
    """
    refuse_address(root)
    if fresh and shard is not None:
        raise UsageError(
            "--fresh and --shard do not go together: every shard would start a run of its own",
            hint="give the shards another --out",
        )
    folders = run_folders(root)
    layout = Layout(fresh_folder(root) if fresh or not folders else folders[-1])
    try:
        layout.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, layout.folder) from error
    lock, complaints = WriterLock(layout.folder, suffix(shard)), list[str]()
    try:
        with lock.gate():
            lock.acquire()
            header = checked_header(layout, Header(FORMAT, spec, defaults, registers, lift, files), complaints)
        return Run(root, layout, header, shard, lock, complaints)
    except BaseException:
        lock.release()
        raise


class Run:
    """An open run directory with this process as the one writer of its shard. `commit` and `deliver` may be called
    from several threads. What returns is written, and no kill takes it; the disk has it within a second (see
    disk/settling.py), or when `settle` returns.
    """

    device = ""  # noted with each picture
    _numbers: PhotoNumbers | None = None  # as they were read last

    def __init__(
        self, root: Path, layout: Layout, header: Header, shard: Shard | None, lock: WriterLock, complaints: list[str]
    ) -> None:  # fmt: skip
        self.root, self.layout, self.shard, self._lock = root, layout, shard, lock
        self.files = Path(header.files) if header.files else root
        self.spec, self.registers, self.lift, self._header = header.engine, header.registers, header.lift, header
        self.complaints = complaints
        self._telling, self._booking = threading.RLock(), threading.Lock()
        with ExitStack() as held:
            self.anchor, self._inside = (held.enter_context(closing(_anchor(path))) for path in (root, layout.folder))
            self._read()
            journals = (Journal(of(shard), sealed=True) for of in (layout.results, layout.deliveries, layout.sessions))
            self._results, self._delivered, self._sessions = (held.enter_context(closing(one)) for one in journals)
            self._settling = held.enter_context(closing(Settling((self._results, self._delivered))))
            held.enter_context(closing(RunLog(layout.log(shard))))
            self._held = held.pop_all()

    def _read(self) -> None:
        """What is there, after what killed processes left half-written is gone; damaged lines are set aside."""
        layout, shard, damage = self.layout, self.shard, list[Damage]()
        self.sweep(layout.folders())
        self._look(damage)
        if damage:
            del self.records, self.deliveries, self.done  # which hold the files open that are mended now
            self._heal(damage, (layout.results(shard), layout.deliveries(shard), layout.sessions(shard)))
            self._look([])

    def _look(self, damage: list[Damage]) -> None:
        self.records = read_records(self.layout, damage)
        self.done = Done(self.records)
        books = read_books(self.layout, damage)
        self.deliveries, self.announced, self._turn = books.delivered, books.announced, books.turn + 1
        self._session, self._row = next_line(self.layout.sessions(self.shard), damage)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failed(self) -> dict[str, Record]:
        """The Edits that were tried and have no picture, with their last Record."""
        return {record.edit: record for record in self.records.failed()}

    def begin_session(self, plan: Plan, invocation: Invocation) -> None:
        """Note that a command starts on `plan`; the plan itself is kept, so that sheets need nothing else.

        A shard passes the plan of all shards: what another one was to make and never did is then known to be left.
        """
        self._session, self._row = self._session + 1, 0
        stored = store_plan(self.layout, plan)
        kept: dict[str, Any] = {"defaults": asdict(self._header.defaults)} if self._header.defaults else {}
        kept |= {name: value for name in ("registers", "lift", "files") if (value := getattr(self._header, name))}
        self._growing, self._noted = GrowingPlan(self.layout, stored), dict[str, Any]()
        self._held.callback(self._growing.tidy)
        self._tell("begin", **asdict(invocation), plan=stored, spec=asdict(self.spec), **kept)

    def ask_more(self, plan: Plan) -> None:
        """This session is asked for `plan` too: what came since it began."""
        for event, detail in self._growing.add(plan):
            self._tell(event, **detail)

    def note(self, event: str, **detail: Any) -> None:
        """Add something that happened to this session's lines: a back-off, its end."""
        self._tell(event, **detail)

    def note_news(self, event: str, **detail: Any) -> None:
        """The same, unless the last such line of this session says it already."""
        if self._noted.get(event) != detail:
            self._noted[event] = detail
            self._tell(event, **detail)

    def _tell(self, event: str, **detail: Any) -> None:
        """A line of this session. Numbered, so that lines in another order, or twice, say the same."""
        self._sessions.append({"event": event, **detail, "session": self._session, "row": self._row})
        self._row += 1

    def sweep(self, folders: Iterable[Path]) -> None:
        """Remove what killed processes left half-written in `folders`; what another shard may be writing stays.

        Found before one looks who writes: what a shard begins that comes after that is not among it.
        """
        if found := strays(folders):
            with self._lock.gate():
                alone = self._lock.alone()
            sweep(found, older_than=None if alone else time.time() - _STALE)

    def _heal(self, damage: Iterable[Damage], own: Collection[Path]) -> None:
        """Set bad lines aside where this process is the one writer, and tell of them."""
        for bad in damage:
            text = str(bad)
            if self.shard is None or bad.path in own:
                text += f"; moved to {set_aside(bad).name}, and what is missing for it is made again"
            self.complaints.append(text)

    def number(self, photos: Sequence[Photo]) -> PhotoNumbers:
        """The `{n}` of each photo by name: given once, in this order, when the photo first enters the run, then kept.

        Shards must pass the photos of the whole plan, so that they agree.
        """
        while True:
            known = read_numbers(self.layout, damage := list[Damage](), self._numbers)
            seen, self._numbers = known.state, None if damage else known
            lines = sealed_lines({"photo": name, "n": n} for name, n in known.given(photo.name for photo in photos))
            if not lines and not damage:
                return known
            del known  # which holds the file open
            with self._lock.gate():
                if state_of(self.layout.numbers) == seen:  # or another shard gave some meanwhile, which are to be read
                    self._heal(damage, (self.layout.numbers,))
                    with closing(Journal(self.layout.numbers)) as journal:
                        journal.write(lines)

    def commit(
        self, key: str, image: Pixels, latent: Latent | None = None, *, seconds: float,
        metrics: Mapping[str, float] | None = None, detail: str = "",
    ) -> Record:  # fmt: skip
        """Keep the picture of an Edit, then its record; `latent` where a later link starts from it."""
        known = self._record_of(key).latent
        if latent is not None:
            known = self._keep(self.layout.latent(key), kept.latent_bytes(latent)).digest
        picture = lossless.encode(image)
        digest = self._keep(self.layout.picture(key), picture).digest
        numbers = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
        record = Record(key, "done", round(seconds, 4), detail, numbers, len(picture), digest, known, self.device)
        self._record(record)
        return record

    def measured(self, key: str, numbers: Mapping[str, float]) -> None:
        """Add numbers to the Record of an Edit that is done."""
        with self._telling:
            known = self.records[key]
            self._record(replace(known, metrics=known.metrics | dict(numbers)))

    def fail(self, key: str, status: Status, detail: str, *, seconds: float = 0.0) -> Record:
        """Record why an Edit has no picture. Saying the same thing again adds no line."""
        record = Record(key, status, round(seconds, 4), detail)
        old = self.records.get(key)
        if old is None or (old.status, old.detail) != (status, detail):
            self._record(record)
        return record

    def enter(self, *records: Record, settled: bool = False) -> None:
        """Write down what other processes made or could not make; pictures are there, and `settled` on the disk too."""
        made = [record for record in records if record.status == "done" and not settled]
        self._settling.files(self.layout.picture(record.edit) for record in made)
        self._settling.files(self.layout.latent(record.edit) for record in made if record.latent)
        self._record(*records)

    def _record(self, *records: Record) -> None:
        with self._telling:  # what `learn` adds to an earlier record may not be written over a later one
            self._results.append(*(record.as_row() for record in records), lasting=False)
            self.records.update({record.edit: record for record in records})
            self.records.fold_many(self.layout.results(self.shard))
        self._settling.written(len(records))

    def announce(self, *deliveries: Delivery) -> None:
        """Record that these files are about to appear: they are known for ours whatever happens then, a power cut too.
        Couriers that announce at the same time wait for the disk together."""
        self._delivered.append(*({**_row(one, self._turn), "begun": True} for one in deliveries), lasting=False)
        self._delivered.sync()

    def deliver(self, *deliveries: Delivery) -> None:
        """Record that files were delivered: the disk has them, under these names."""
        self._delivered.append(*(_row(one, self._turn) for one in deliveries), lasting=False)
        if is_object(self.files):
            for one in deliveries:  # another process may have put it
                prefix_at(self.files).believe(one.path, one.etag, one.bytes)
        with self._booking:
            for one in deliveries:
                self.deliveries.add(one)
            self.deliveries.fold_many(self.layout.deliveries(self.shard))
        self._settling.written(len(deliveries))

    def settle(self) -> None:
        """Return when the disk has all that was written. Raises ResourceError."""
        self._settling.settle()

    def picture(self, key: str) -> Pixels:
        """The lossless picture of a done Edit, uint8 [h, w, 3]. Raises DamagedError."""
        file = Kept(self.layout.picture(key), self._record_of(key).digest)
        data = file.read()
        pixels = file.decoded(data)
        if not file.digest:
            self.learn({key: (kept.digest_of(data), "")})
        return pixels

    def latent(self, key: str) -> Latent:
        """The kept latent of a done Edit, float32 [c, h, w]. Raises DamagedError, also where none was kept."""
        file = Kept(self.layout.latent(key), self._record_of(key).latent, "latent")
        data = file.read()
        latent = file.latent(data)
        if not file.digest:
            self.learn({key: ("", kept.digest_of(data))})
        return latent

    def has_latent(self, key: str) -> bool:
        """Whether a latent was kept for this Edit."""
        return self.layout.latent(key).is_file()

    def learn(self, digests: Mapping[str, tuple[str, str]]) -> None:
        """Record the digests of files that were read whole and had none, for an earlier version recorded none.

        `digests` are (picture's, latent's) by the Edit's key, "" for what was not read.
        """
        with self._telling:
            learned = {}
            for key, (picture, latent) in digests.items():
                record = self.records.get(key)
                if record is not None and record.status == "done":
                    knows = replace(record, digest=record.digest or picture, latent=record.latent or latent)
                    learned.update({key: knows} if knows != record else {})
            if learned:
                self._record(*learned.values())

    def set_aside(self, key: str, error: DamagedError) -> None:
        """A kept file of this Edit is damaged, as `error` says: what was done with it is to be done again.

        The file gets another name, under which nothing looks for it.
        """
        with suppress(OSError):
            error.path.replace(error.path.with_name(error.path.name + DAMAGED))
        log.warning("%s: %s", key, error)
        with self._telling:
            record = self.records.get(key)
            if error.path == self.layout.picture(key):
                if record is None or record.status == "done":
                    self.fail(key, "failed", f"{error}; {error.hint}")
            elif record is not None and record.latent:
                self._record(replace(record, latent=""))

    def source(self, digest: str, size: tuple[int, int]) -> Pixels | None:
        """The photo as the model saw it, uint8 [h, w, 3] at `size` (width, height); None where it was not kept yet.

        Raises DamagedError.
        """
        file = Kept(self.layout.source(digest, size), noun="source")
        return file.pixels() if file.path.is_file() else None

    def keep_source(self, digest: str, size: tuple[int, int], pixels: Pixels) -> None:
        """Keep a photo at model size, for sheets, reports and the next session."""
        self._keep(self.layout.source(digest, size), lossless.encode(pixels))

    def _keep(self, path: Path, data: bytes) -> Kept:
        """Write a file, never outside the run directory that was opened."""
        write_atomic(path, data, root=self._inside, lasting=False)
        self._settling.files([path])
        return Kept(path, kept.digest_of(data))

    def _record_of(self, key: str) -> Record:
        return self.records.get(key) or Record(key, "failed", 0.0)

    def close(self) -> None:
        """Wait for the disk, close the files and let go of the lock; safe to call twice. Raises ResourceError."""
        try:
            self._held.close()
        finally:
            self._lock.release()


def _anchor(path: Path) -> Anchor:
    try:
        return Anchor(path)
    except OSError as error:
        raise unreadable(error, path) from error


def _row(delivery: Delivery, turn: int) -> dict[str, Any]:
    left = {"begun"} if delivery.etag else {"begun", "etag"}
    return {name: getattr(delivery, name) for name in Delivery.__slots__ if name not in left} | {"turn": turn}
