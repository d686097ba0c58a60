"""What a run knows of itself although the file that said so is lost: its journals tell of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ip2pbatch.disk.journal import read_rows
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.shard import Shard, suffix
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import DELIVERY, RECORD
from ip2pbatch.run.directory.records import pictures_on_disk
from ip2pbatch.run.directory.sessions import Session, sessions_in
from ip2pbatch.run.directory.stored_plans import load_plan
from ip2pbatch.run.directory.superseded import places
from ip2pbatch.run.directory.view import RunView

_UNRECORDED = 32  # pictures without a record that kills may have left; each leaves as many as are written at once


@dataclass(frozen=True, slots=True)
class _Part:
    """What the journals of one shard, or of a run without shards, say: Edits with a result, Edits of delivered files
    and how many lines there are of these, and sessions.
    """

    shard: Shard | None
    recorded: frozenset[str]
    delivered: frozenset[str]
    files: int
    sessions: tuple[Session, ...]

    def tells(self, layout: Layout) -> bool:
        """Whether anything stands in any of its files."""
        paths = (of(self.shard) for of in (layout.results, layout.deliveries, layout.sessions, layout.log))
        return any(path.is_file() and path.stat().st_size for path in paths)


def gaps(view: RunView) -> Iterator[tuple[str, str]]:
    """The journals of a run that lost what another file still tells of: (name, why). Only what the next run makes good
    counts, of what is asked for now: what an earlier recipe asked for is nobody's loss.
    """
    layout, lost = view.layout, False
    known = view.records.keys() | {record.edit for record in view.lost}
    parts = [_read(layout, shard) for shard in _shards(layout)]
    for part in parts:
        if number := _unrecorded(view, part, known):
            lost = True
            yield layout.results(part.shard).name, f"it has lost the results of {number:,} edits"
        if number := _undelivered(view, part):
            yield layout.deliveries(part.shard).name, f"it has lost what it said of {number:,} delivered files"
        others = frozenset[str]().union(*(other.recorded for other in parts if other is not part))
        if not part.sessions and (part.recorded | part.delivered) - others:
            yield layout.sessions(part.shard).name, "it has lost its sessions: what was asked for, and when"
    orphans = (set[str]().union(*pictures_on_disk(layout)) & {edit.key for edit in view.plan.edits}) - known
    if len(orphans) > _UNRECORDED and not lost:
        yield layout.results(None).name, f"{len(orphans):,} pictures are kept of which it has no result"
    if number := len(_unnumbered(view)):
        yield layout.numbers.name, f"it has lost the numbers of {number:,} photos"


def _shards(layout: Layout) -> list[Shard | None]:
    """Who ever wrote here, by the names of files."""
    ends = {path.stem.partition("-")[2] for path in layout.folder.glob("*-*of*.*")}
    counted = (end.split("of") for end in ends)
    shards = (Shard(int(k), int(n)) for k, n in (pair for pair in counted if len(pair) == 2) if (k + n).isdecimal())
    return [None, *sorted(shards, key=suffix)]


def _read(layout: Layout, shard: Shard | None) -> _Part:
    recorded = frozenset(record.edit for record in read_rows(layout.results(shard), RECORD))
    files = [row.edit for row in read_rows(layout.deliveries(shard), DELIVERY) if not row.begun]
    return _Part(shard, recorded, frozenset(files), len(files), tuple(sessions_in(layout.sessions(shard))))


def _unrecorded(view: RunView, part: _Part, known: set[str]) -> int:
    """Edits that were delivered, or that the end of a session counted, and have no result."""
    asked, load = {edit.key for edit in view.plan.edits}, cache(load_plan)
    found = [len((part.delivered & asked) - known)]
    for session in part.sessions:
        ends = [event for event in session.events if event["event"] == "end"]
        plans = [load(view.layout.plan(name)) for name in session.plans] if ends else []
        if any(plan is not None for plan in plans):
            keys = {edit.key for plan in plans if plan is not None for edit in _own(plan, part.shard).edits}
            tried = sum(number for state, number in ends[-1].get("states", {}).items() if state != "left")
            found.append(min(tried - len(keys & known), len((keys & asked) - known)))
    return max(found)


def _own(plan: Plan, shard: Shard | None) -> Plan:
    return plan if shard is None else shard.take(plan)


def _undelivered(view: RunView, part: _Part) -> int:
    """Files that are asked for and not noted, where the ends of sessions counted more files, or the journal is gone."""
    lacking = sum(
        place not in view.deliveries and ((record := view.record(place[1])) is None or record.status == "done")
        for strip in _own(view.plan, part.shard).strips for place in places(strip)
    )  # fmt: skip
    if part.tells(view.layout) and not view.layout.deliveries(part.shard).exists():
        return lacking
    events = (event for session in part.sessions for event in session.events)
    counted: int = sum(event.get("delivered", 0) for event in events if event["event"] == "end")
    return max(0, min(lacking, counted - part.files))


def _unnumbered(view: RunView) -> set[str]:
    """Photos that a session gave a number before it delivered, and that have none."""
    numbered = {
        name for s in view.sessions if any(event["event"] == "delivery" for event in s.events) for name in s.plans
    }
    plans = filter(None, map(load_plan, map(view.layout.plan, numbered)))
    known = {photo.name for plan in plans for photo in plan.photos}
    return (known & {photo.name for photo in view.photos}) - view.numbers.keys()
