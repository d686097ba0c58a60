"""Reading a run directory without touching it: what sheets, reports, `status` and `verify` look at.

    view = read_run(Path("out"))
    for strip in view.strips:
        before = view.source_path(strip)
        for edit in strip.edits:
            record, picture = view.record(edit.key), view.picture(edit.key)
            delivered = view.delivered_path(strip, edit)

No lock is taken, so a run may be looked at while it is being made. Shards are read as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ip2pbatch.disk.files_at import is_there
from ip2pbatch.disk.journal import Damage
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit, Photo, Plan, Strip
from ip2pbatch.plan.unedited import Passed
from ip2pbatch.run.directory.books import Delivered, read_books
from ip2pbatch.run.directory.header import known_header
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.layout import Layout, refuse_address, run_folders, strip_key
from ip2pbatch.run.directory.lines import Delivery, EngineSpec, Record
from ip2pbatch.run.directory.photo_numbers import PhotoNumbers, read_numbers
from ip2pbatch.run.directory.records import Done, Records, read_records
from ip2pbatch.run.directory.sessions import Session, noted_comparison, read_sessions
from ip2pbatch.run.directory.stored_plans import load_plan


@dataclass(frozen=True, slots=True)
class RunView:
    """A run directory as it is now. `strips` are what the recipe of the newest session asks for, in its order.

    Sessions of some photos only are joined with the earlier ones of the same recipe, back to the last whole one; of a
    photo that was replaced meanwhile, what the newest plan says counts. `complaints` names lines that cannot be read;
    `lost` are the Records of pictures that were made and are gone or cut, `damaged` says of kept files why they cannot
    be shown, as far as somebody read them. `address` is where the run delivers, "" for `root`.
    """

    root: Path
    layout: Layout
    spec: EngineSpec
    sessions: tuple[Session, ...]
    plan: Plan
    records: Records
    deliveries: Delivered
    numbers: PhotoNumbers
    complaints: tuple[str, ...] = field(default=())
    lost: tuple[Record, ...] = field(default=())
    damaged: Mapping[Path, str] = field(default_factory=dict)
    address: str = ""

    @property
    def files(self) -> Path:
        """Where delivered files are: the output folder, or an address in a bucket."""
        return Path(self.address) if self.address else self.root

    @property
    def strips(self) -> Sequence[Strip]:
        return self.plan.strips

    @property
    def photos(self) -> Sequence[Photo]:
        return self.plan.photos

    @property
    def broken(self) -> dict[str, str]:
        """Photos that could not even be planned, by name: files that are damaged, with the reason."""
        planned = {photo.name for photo in self.photos}
        events = (event for session in _joined(self.sessions) for event in reversed(session.events))
        found = {row["photo"]: row["reason"] for row in reversed([*events]) if row["event"] == "broken"}
        return {name: reason for name, reason in found.items() if name not in planned}

    @property
    def passed(self) -> tuple[Passed, ...]:
        """What lay in the photos' folders and was nothing to edit, by kind, as the newest session saw it."""
        for session in _joined(self.sessions):
            for event in reversed(session.events):
                if event["event"] == "passed":
                    return tuple(map(Passed.of, event["kinds"]))
        return ()

    @property
    def done(self) -> Done:
        """The keys of the Edits that are done."""
        return Done(self.records)

    def record(self, key: str) -> Record | None:
        """What became of an Edit; None where it was not yet tried, or its picture is gone."""
        return self.records.get(key)

    def is_done(self, key: str) -> bool:
        """Whether the Edit's picture is there to be looked at."""
        return self.picture_path(key) is not None

    def picture_path(self, key: str) -> Path | None:
        """The lossless picture at model size (PNG, RGB); None where the Edit is not done."""
        record = self.records.get(key)
        done = record is not None and record.status == "done" and not self.why_damaged(key)
        return self.layout.picture(key) if done else None

    def why_damaged(self, key: str) -> str:
        """Why the kept picture of an Edit cannot be shown, "" where nobody found it damaged."""
        return self.damaged.get(self.layout.picture(key), "") if self.damaged else ""

    def picture(self, key: str) -> Kept | None:
        """The same, to be read; None where the Edit is not done."""
        path = self.picture_path(key)
        return None if path is None else Kept(path, self.records[key].digest)

    def source(self, strip: Strip) -> Kept | None:
        """The strip's photo as the model saw it, to be read; None before it was first loaded."""
        path = self.source_path(strip)
        return None if path is None else Kept(path, noun="source")

    def source_path(self, strip: Strip) -> Path | None:
        """The strip's photo as the model saw it (PNG, RGB, model size); None before it was first loaded."""
        path = self.layout.source(strip.photo.digest, strip.edits[0].size)
        return path if path.is_file() else None

    def delivery(self, strip: Strip, edit: Edit) -> Delivery | None:
        """The line about the delivered file of this link of this strip; None where none was delivered."""
        return self.deliveries.get((strip_key(strip), edit.key))

    def delivered_path(self, strip: Strip, edit: Edit) -> Path | None:
        """The delivered file, where it was delivered and still exists."""
        delivery = self.delivery(strip, edit)
        return self.files / delivery.path if delivery and is_there(self.files, delivery.path) else None

    def kept(self, strip: Strip) -> Iterator[tuple[int, Edit]]:
        """The links of a strip that are delivered: (number of the link from 1, Edit)."""
        return ((link, strip.edits[link - 1]) for link in strip.keep)

    def counts(self) -> dict[str, int]:
        """How many Edits of the plan are in each state: done, failed, nan, flagged, skipped, left, and unmatched where
        there are any.
        """
        states = Counter(state or "left" for state in self.records.statuses(self.plan.keys))
        found = {state: states[state] for state in ("done", "failed", "nan", "flagged", "skipped", "left")}
        return found | ({"unmatched": states["unmatched"]} if states["unmatched"] else {})


def read_run(root: Path) -> RunView:
    """The newest run under `root`, an output folder (or a run directory itself).

    Raises UsageError where there is none.
    """
    layout = _find(root)
    damage: list[Damage] = []
    lost: list[Record] = []
    sessions = read_sessions(layout, damage)
    plan, unplanned = _join(layout, sessions)
    records, header = read_records(layout, damage, lost), known_header(layout)
    return RunView(
        root=layout.folder.parent,
        layout=layout,
        spec=header.engine,
        sessions=sessions,
        plan=plan,
        records=records,
        deliveries=read_books(layout, damage).delivered,
        numbers=read_numbers(layout, damage),
        complaints=(*map(str, damage), *unplanned),
        lost=tuple(one for one in lost if one.edit not in records),
        address=header.files,
    )


def _find(root: Path) -> Layout:
    refuse_address(root)
    folders = [root] if (root / "run.json").is_file() else run_folders(root)
    if not folders and (noted := noted_comparison(root)) is not None:
        why = f"{root} holds a comparison of models, and no run of its own"
        raise UsageError(why, hint=f"give the folder of one of them: {', '.join(noted.folders)}")
    if not folders or not Layout(folders[-1]).is_run():
        raise UsageError(f"{root} holds no run", hint="give the output folder of an earlier `ip2pbatch run` or `edit`")
    return Layout(folders[-1])


def _joined(sessions: Sequence[Session]) -> Iterator[Session]:
    """The newest session and where that was a part, its sisters of the same recipe, newest first."""
    for session in reversed(sessions):
        if session.recipe == sessions[-1].recipe:
            yield session
            if not session.partial:
                return


def _join(layout: Layout, sessions: tuple[Session, ...]) -> tuple[Plan, list[str]]:
    """The plan of the newest session, and where that was a part, with its sisters of the same recipe; what is lost."""
    joined = [*_joined(sessions)]
    names = dict.fromkeys(name for session in joined for name in reversed(session.plans))
    stored = {name: load_plan(layout.plan(name)) for name in names}
    lost = [
        f"plans/{name}.jsonl, what a session was asked for, is damaged or gone: run the recipe again to have it back"
        for name, plan in stored.items() if plan is None
    ]  # fmt: skip
    plans = [plan for plan in stored.values() if plan is not None]
    one = len(plans) == 1 and not any(len(session.plans) > 1 for session in joined)
    return plans[0] if one else _joint(plans), lost


def _joint(plans: Sequence[Plan]) -> Plan:
    """Plans of parts as one, the newest first: of a photo that two have, the newer one's strips. Within a plan the last
    photo of a name is the newest.
    """
    newest: dict[str, int] = {}
    older: set[tuple[int, str, str]] = set()
    for number, plan in enumerate(plans):
        for photo in reversed(plan.photos):
            if photo.name not in newest:
                newest[photo.name] = number
            elif newest[photo.name] == number:
                older.add((number, photo.name, photo.digest))
    strips = (
        strip for n, plan in enumerate(plans) for strip in plan.strips
        if newest[strip.photo.name] == n and (n, strip.photo.name, strip.photo.digest) not in older
    )  # fmt: skip
    ordered = sorted(strips, key=lambda strip: strip.photo.name)
    photos = {strip.photo.name: strip.photo for strip in ordered}
    edits = {edit.key: edit for strip in ordered for edit in strip.made}
    name, model = (plans[0].name, plans[0].model) if plans else ("", "")
    return Plan(name, model, tuple(photos.values()), tuple(ordered), tuple(edits.values()))
