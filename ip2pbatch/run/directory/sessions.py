"""The sessions of a run: what each was asked for, and what happened on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2pbatch.disk.journal import Damage, parse_row, read_rows
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.lines import SESSION, EngineSpec, RecordedRecipe

ALSO, JOINED, ASKED = "also", "joined", "asked"
"""A session is asked for one plan more; all of these are now the plans in the place of those that came till then;
it is asked for these recipes."""


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation that wrote to the run. `started` is ISO 8601 in UTC; `recipe` the recipe's own text.

    `partial` says that the plan is of some photos only (`--limit`, `--only`, `watch`); a shard's is that of all shards.
    `spec` to `lift`, and `files`, are what the run began with, None, False, 0 and "" in older runs. `recipes`
    are what it is asked for since, () where that is not recorded. `events` are what happened on the way
    (`{"event": "shrunk", "batch": 4}`, `{"event": "end", …}`), oldest first.
    """

    started: str
    command: str
    recipe: str
    versions: Mapping[str, str]
    device: str
    plan: str
    partial: bool
    spec: EngineSpec | None = None
    defaults: ModelDefaults | None = None
    registers: bool = False
    lift: int = 0
    files: str = ""
    recipes: tuple[RecordedRecipe, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def plans(self) -> tuple[str, ...]:
        """All that it was asked for, oldest first: `plan`, and what came as it went on, part of it joined since."""
        later: dict[str, None] = {}
        for event in self.events:
            if event["event"] == ALSO:
                later.pop(event["plan"], None)
                later[event["plan"]] = None
            elif event["event"] == JOINED:
                later = dict.fromkeys(event["plans"])
        return self.plan, *later


def read_sessions(layout: Layout, damage: list[Damage] | None = None) -> tuple[Session, ...]:
    """All sessions of all shards, oldest first.

    Within a file their order is that of their numbers: a time may be an older one, from SOURCE_DATE_EPOCH or a clock
    that was set back, and the newest session says what the run is asked for.
    """
    sessions: list[tuple[str, Session]] = []
    for path in sorted(layout.folder.glob("sessions*.jsonl")):
        newest = ""
        for session in sessions_in(path, damage):
            newest = max(newest, session.started)
            sessions.append((newest, session))
    return tuple(session for _, session in sorted(sessions, key=lambda pair: pair[0]))


def says_engine(layout: Layout) -> bool:
    """Whether any session still says which engine it opened."""
    return any(event["event"] == "engine" for session in read_sessions(layout) for event in session.events)


@dataclass(frozen=True, slots=True)
class Noted:
    """A comparison of models as its runs know it: the recipe that compares, how many comparisons there were till then
    with it, and the names of the folders that hold its runs.
    """

    recipe: RecordedRecipe
    turn: int
    folders: tuple[str, ...]


def noted_comparison(root: Path) -> Noted | None:
    """The newest comparison of models whose runs lie in the folders of `root`; None where there is none, or a run of
    `root` itself.
    """
    if run_folders(root) or not root.is_dir():
        return None
    folders = {
        path.name: found[-1] for path in sorted(root.iterdir()) if path.is_dir() and (found := run_folders(path))
    }
    noted = [(event, name) for name, folder in folders.items() for event in _comparisons(folder)]
    if not noted:
        return None
    newest = max((event for event, _ in noted), key=lambda event: int(event["turn"]))
    names = tuple(dict.fromkeys(name for _, name in noted))
    return Noted(RecordedRecipe(newest["text"], newest["file"]), newest["turn"], names)


def _comparisons(folder: Path) -> Iterator[Mapping[str, Any]]:
    events = (event for session in read_sessions(Layout(folder)) for event in session.events)
    return (event for event in events if event["event"] == "comparison")


def next_line(path: Path, damage: list[Damage] | None = None) -> tuple[int, int]:
    """The session that the next line of a file belongs to, and as which of its lines; (0, 0) in a file without."""
    numbers = ((row.get("session", 0), row.get("row", 0)) for row in read_rows(path, _parse, damage))
    session, row = max(numbers, default=(0, 0))
    return session, row + bool(session)


def sessions_in(path: Path, damage: list[Damage] | None = None) -> Iterator[Session]:
    """The sessions of one file. Lines of a session whose first line is gone tell nothing."""
    begun: dict[str, Any] | None = None
    events: list[dict[str, Any]] = []
    for row in _in_order(path, damage):
        place = row.pop("session", 0)
        row.pop("row", None)
        if row["event"] == "begin":
            yield from _whole(begun, events)
            begun, events = {**row, "place": place}, []
        elif begun is not None and begun["place"] == place:
            events.append(row)
    yield from _whole(begun, events)


def _whole(begun: dict[str, Any] | None, events: list[dict[str, Any]]) -> Iterator[Session]:
    if begun is None:
        return
    spec, defaults = begun.get("spec"), begun.get("defaults")
    yield Session(
        begun["started"], begun["command"], begun["recipe"], begun["versions"], begun["device"], begun["plan"],
        begun.get("partial", False), EngineSpec.of(spec) if spec else None,
        ModelDefaults(**defaults) if defaults else None, begun.get("registers", False), begun.get("lift", 0),
        begun.get("files", ""), _asked(begun, events), tuple(events),
    )  # fmt: skip


def _asked(begun: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> tuple[RecordedRecipe, ...]:
    """The recipes that a session began with, and those that came as it went on, each once and the newest last."""
    recipes = dict.fromkeys(RecordedRecipe(**one) for one in begun.get("recipes", ()))
    for event in events:
        if event["event"] == ASKED:
            came = [RecordedRecipe(**one) for one in event["recipes"]]
            before = {} if event.get("whole") else {one: None for one in recipes if one not in came}
            recipes = before | dict.fromkeys(came)
    return tuple(recipes)


def _in_order(path: Path, damage: list[Damage] | None) -> Iterator[dict[str, Any]]:
    """The lines of a file in the order in which they were written, each once; older runs have none but the file's."""
    seen = set()
    rows = sorted(read_rows(path, _parse, damage), key=lambda row: (row.get("session", 0), row.get("row", 0)))
    for row in rows:
        place = row.get("session", 0), row.get("row", 0)
        if place not in seen or place == (0, 0):
            yield row
        seen.add(place)


def _parse(line: bytes) -> dict[str, Any] | None:
    row = parse_row(line)
    if row is None or not isinstance(row.get("event"), str):
        return None
    shape = SESSION.get(row["event"])
    if shape is None:
        whole = all(isinstance(row.get(name, 0), int) for name in ("session", "row"))
        return row if whole else None
    return shape.known(row) if shape(line) is not None else None
