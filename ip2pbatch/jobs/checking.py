"""Is every byte of a run as it was written? Reads them all, and puts right what can be without the model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ip2pbatch import errors
from ip2pbatch.disk.files_at import remove_at
from ip2pbatch.errors import DamagedError, StaleError
from ip2pbatch.jobs.standing import find
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.run.deliveries import Deliverer, Errand
from ip2pbatch.run.directory.audit import Fault, Kind, Reading, Seen, losses, readings
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.superseded import places
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.lock import last_event
from ip2pbatch.run.sources import remake_source

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice

_PORTION = 1000

Remedy = Literal["", "made again", "set aside", "for the next run", "left"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A Fault with the words for a person: of which photo and instruction, and what was done about it, if anything."""

    fault: Fault
    photo: str = ""
    instruction: str = ""
    remedy: Remedy = ""

    @property
    def is_mended(self) -> bool:
        """Whether nothing is left to do."""
        return self.remedy in ("made again", "set aside")


@dataclass(frozen=True, slots=True)
class Checkup:
    """What `check` found in the run in `run`: files and bytes that were read, what is not as it was written, delivered
    files that somebody changed since, and how many kept files had no digest yet, which only --repair writes down.
    Of the files `listed` ones were not read: a bucket has them as the version that was put.
    """

    run: str
    files: Mapping[Kind, int]
    bytes: int
    troubles: tuple[Trouble, ...]
    changed: tuple[str, ...]
    undigested: int
    repaired: bool
    listed: int = 0

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        return errors.DONE if all(one.is_mended for one in self.troubles) else errors.DIFFERS

    def as_json(self) -> dict[str, Any]:
        """All of it for `check --json`."""
        wrong = [
            {**asdict(one.fault), "photo": one.photo, "instruction": one.instruction, "remedy": one.remedy}
            for one in self.troubles
        ]
        return asdict(self) | {"exit_code": self.exit_code, "troubles": wrong}


def check(what: Path, voice: Voice, *, repair: bool) -> Checkup:
    """Read all of a run; with `repair`, put right what can be. Raises UsageError, RecipeError, LockedError."""
    view = find(what)
    files, size, listed, remarkable = Counter[Kind](), 0, 0, list[Seen]()
    for one in _read(readings(view), voice):
        files[one.kind] += 1
        size += one.bytes
        listed += one.listed
        if one.fault is not None or one.digest or one.changed:
            remarkable.append(one)
    faults = [*losses(view), *(one.fault for one in remarkable if one.fault is not None)]
    digests = [one for one in remarkable if one.digest]
    remedies = _repair(view, faults, digests) if repair and (faults or digests) else {}
    return Checkup(
        str(view.root), dict(files), size, tuple(_named(view, faults, remedies)),
        tuple(sorted(one.path for one in remarkable if one.changed)), 0 if repair else len(digests), repair, listed,
    )  # fmt: skip


def _read(wanted: Sequence[Reading], voice: Voice) -> Iterator[Seen]:
    """What came of each, in order; a run may have a million, so that they are handed to the threads in portions."""
    with voice.counting("reading", len(wanted)) as advance, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(wanted), _PORTION):
            for one in pool.map(lambda reading: reading(), wanted[start : start + _PORTION]):
                yield one
                advance()


def _named(view: RunView, faults: Sequence[Fault], remedies: Mapping[Fault, Remedy]) -> Iterator[Trouble]:
    names = {edit.key: (strip.photo.name, edit.instruction) for strip in view.strips for edit in strip.made}
    for fault in faults:
        yield Trouble(fault, *names.get(fault.edit, ("", "")), remedies.get(fault, ""))


def _repair(view: RunView, faults: Sequence[Fault], digests: Sequence[Seen]) -> dict[Fault, Remedy]:
    """Set aside what is damaged, make again what needs no model, and write digests down; what became of each Fault."""
    done: dict[Fault, Remedy] = {}
    with open_run(view.root, view.spec) as run:
        for kind in ("picture", "latent"):
            own = {one.edit: one.digest for one in digests if one.kind == kind}
            run.learn({key: (digest, "") if kind == "picture" else ("", digest) for key, digest in own.items()})
        for fault in faults:
            if fault.kind in ("picture", "latent"):
                with suppress(FileNotFoundError):
                    run.set_aside(fault.edit, DamagedError(fault.why, path=view.root / fault.path))
                done[fault] = "for the next run" if fault.kind == "picture" else "set aside"
            elif fault.kind == "mask":
                run.set_aside("", DamagedError(fault.why, path=view.root / fault.path))
                done[fault] = "for the next run"
            elif fault.kind == "source":
                done[fault] = _make_source(view, run, view.root / fault.path)
        done |= _deliver(view, run, [fault for fault in faults if fault.kind == "file"])
    left = set(read_run(view.root).complaints)  # whoever opens a run to write sets lines aside
    done |= {fault: "for the next run" for fault in faults if fault.kind == "journal"}
    lines = (fault for fault in faults if fault.kind == "line")
    return done | {fault: "left" if fault.why in left else "for the next run" for fault in lines}


def _make_source(view: RunView, run: Run, damaged: Path) -> Remedy:
    """The photo at model size once more, from the photo; where that is gone or another one now, there is none."""
    damage = DamagedError("a source is damaged", path=damaged)
    for strip in view.strips:
        size = strip.edits[0].size
        if view.layout.source(strip.photo.digest, size) == damaged:
            return "made again" if remake_source(run, strip.photo, size, damage) else "set aside"
    run.set_aside("", damage)
    return "set aside"


def _deliver(view: RunView, run: Run, faults: Sequence[Fault]) -> dict[Fault, Remedy]:
    """Write these files once more from the kept pictures, as the newest session delivered."""
    if not faults:
        return {}
    try:
        settings = DeliverySettings(**last_event(view, "delivery"))
    except StaleError:
        return dict.fromkeys(faults, "for the next run")
    if settings.sign:  # it is the recipe that knows who signs, and a run writes what is not there
        for fault in faults:
            remove_at(view.files, fault.path)
        return dict.fromkeys(faults, "for the next run")
    wanted = {fault.path: fault for fault in faults}
    errands = [
        Errand(strip, link, file.path)
        for strip in view.strips for (link, edit), place in zip(view.kept(strip), places(strip), strict=True)
        if (file := run.deliveries.get(place)) is not None and file.path in wanted and edit.key in run.done
    ]  # fmt: skip
    # What stands there is no one's work: its bytes changed and its time did not, or nothing does.
    deliverer = Deliverer(run, view.plan, {}, settings, "overwrite")
    written = {delivery.path for errand in errands if (delivery := deliverer.deliver(errand)) is not None}
    deliverer.close()
    return {fault: "made again" if path in written else "for the next run" for path, fault in wanted.items()}
