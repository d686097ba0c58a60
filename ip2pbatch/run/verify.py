"""Do two runs, or a run and a lock, hold the same pictures? Compares what is there and makes nothing.

    expected, actual = RunWitness(read_run(old)), RunWitness(read_run(new))
    for finding in compare(expected, actual, Level.PIXELS, choose(expected.cases(), 20)): ...

Bitwise is about delivered files; pixels and perceptual are about the model's lossless pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.likeness import ssim
from ip2pbatch.pictures.lossless import pixel_digest
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.run.directory.kept import Pixels
from ip2pbatch.run.directory.standing_files import digest_now
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.lock import Lock, LockedFile
from ip2pbatch.run.tolerance import MAX_DIFFERENCE, MAX_RMS, MIN_SSIM, Level

State = Literal["equal", "differs", "absent"]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to compare: the picture of Edit `key`; `id` and `link` where it is the file delivered for them.

    `scales` tells the cells of a grid apart, as far as they are known.
    """

    key: str
    photo: str
    instruction: str
    id: str = ""
    link: int = 0
    scales: str = ""

    @property
    def title(self) -> str:
        """What it is called beside its photo."""
        return f"{self.id}, link {self.link}" if self.link > 1 else self.id or self.instruction


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two pictures of one size are apart: RMS and largest difference of 255; SSIM of the worst channel."""

    rms: float
    most: int
    ssim: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a Case; `why` in one plain phrase, `distance` where both pictures could be opened."""

    case: Case
    state: State
    why: str = ""
    distance: Distance | None = None


class Witness(Protocol):
    """What can testify how pictures came out."""

    def cases(self, level: Level) -> list[Case]:
        """All that are finished, in the plan's order: files at bitwise, else pictures."""
        ...

    def file_sha256(self, case: Case) -> str | None:
        """Of the delivered file as it is now, of a signed one as it was before, if nobody changed it since; None where
        there is none.
        """
        ...

    def pixels_sha256(self, key: str) -> str | None:
        """Of the RGB bytes of an Edit's picture; None where there is none."""
        ...

    def picture(self, key: str) -> Pixels | None:
        """The picture, uint8 [h, w, 3]; None where there is none, or only its digest is known."""
        ...

    def why_absent(self, key: str) -> str:
        """Why there is no picture, in a plain phrase; "" where nobody knows."""
        ...


class RunWitness:
    """A run directory: it has the pictures themselves."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        kept = ((s, link, edit) for s in view.strips for link, edit in view.kept(s))
        self._places = {(s.photo.name, s.id, link, edit.key): (s, edit) for s, link, edit in kept}

    def cases(self, level: Level) -> list[Case]:
        if level is Level.BITWISE:
            return [
                Case(key, photo, edit.instruction, id, link, _scales(edit))
                for (photo, id, link, key), (strip, edit) in self._places.items()
                if self._is_finished(key) and self.view.delivery(strip, edit) is not None
            ]
        found: dict[str, Case] = {}
        for strip in self.view.strips:
            for edit in strip.made:
                if self._is_finished(edit.key):
                    case = Case(edit.key, strip.photo.name, edit.instruction, scales=_scales(edit))
                    found.setdefault(edit.key, case)
        return list(found.values())

    def left(self, level: Level) -> int:
        """How many that the run was asked for are not among `cases`."""
        files = level is Level.BITWISE
        asked = [place[-1] for place in self._places] if files else [edit.key for edit in self.view.plan.edits]
        return sum(not self._is_unmatched(key) for key in asked) - len(self.cases(level))

    def tampered(self, cases: Sequence[Case]) -> list[str]:
        """The delivered files of these pictures that are gone or not as they were delivered."""
        keys = {case.key for case in cases}
        found = (self.view.delivery(*place) for place in self._places.values() if place[1].key in keys)
        return [d.path for d in found if d is not None and digest_now(self.view.files, d) != d.sha256]

    def _is_finished(self, key: str) -> bool:
        record = self.view.record(key)
        return record is not None and record.status == "done"

    def _is_unmatched(self, key: str) -> bool:
        record = self.view.record(key)
        return record is not None and record.status == "unmatched"

    def file_sha256(self, case: Case) -> str | None:
        place = self._places.get((case.photo, case.id, case.link, case.key))
        delivery = self.view.delivery(*place) if place else None
        found = digest_now(self.view.files, delivery) if delivery else None
        return delivery.unsigned if delivery and delivery.unsigned and found == delivery.sha256 else found

    def pixels_sha256(self, key: str) -> str | None:
        pixels = self.picture(key)
        return None if pixels is None else pixel_digest(pixels)

    def picture(self, key: str) -> Pixels | None:
        kept = self.view.picture(key)
        return kept.pixels() if kept else None

    def why_absent(self, key: str) -> str:
        record = self.view.record(key)
        return record.detail if record is not None else ""


class LockWitness:
    """A lock: it knows digests and has no picture."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self._files: Mapping[tuple[str, str, int, str], LockedFile] = {
            (file.photo, file.id, file.link, file.edit): file for file in lock.files.values()
        }

    def cases(self, level: Level) -> list[Case]:
        edits = self.lock.edits
        if level is Level.BITWISE:
            rows = self.lock.files.values()
            return [
                Case(f.edit, f.photo, edits[f.edit].instruction, f.id, f.link, f"seed {edits[f.edit].seed}")
                for f in rows
                if f.edit in edits
            ]
        return [Case(key, row.photo, row.instruction, scales=f"seed {row.seed}") for key, row in edits.items()]

    def file_sha256(self, case: Case) -> str | None:
        file = self._files.get((case.photo, case.id, case.link, case.key))
        return file.sha256 if file else None

    def pixels_sha256(self, key: str) -> str | None:
        row = self.lock.edits.get(key)
        return row.pixels if row else None

    def picture(self, key: str) -> Pixels | None:
        return None

    def why_absent(self, key: str) -> str:
        return ""


def _scales(edit: Edit) -> str:
    return f"text {edit.guidance.text:g}, image {edit.guidance.image:g}, seed {edit.seed}"


def titles(cases: Sequence[Case]) -> dict[Case, str]:
    """What each is called beside its photo: with scales, and the beginning of its key, where two are alike without."""
    said = {case: case.title for case in cases}
    for more in ("scales", "key"):
        twice = Counter((case.photo, text) for case, text in said.items())
        for case, text in said.items():
            if twice[case.photo, text] > 1:
                said[case] = f"{text} ({case.scales if more == 'scales' else case.key[:8]})"
    return said


def choose(cases: Sequence[Case], sample: int | None) -> list[Case]:
    """All cases, or those of `sample` pictures chosen by a hash of their keys: the same ones every time and
    everywhere, whatever else is in the run; in the order of `cases`.
    """
    if sample is None:
        return list(cases)
    ranked = sorted({case.key for case in cases}, key=lambda key: hashlib.sha256(f"sample {key}".encode()).digest())
    chosen = set(ranked[:sample])
    return [case for case in cases if case.key in chosen]


def cut(plan: Plan, cases: Sequence[Case]) -> Plan:
    """The part of `plan` that makes the pictures of `cases`: they and the links that they start from."""
    wanted = {case.key for case in cases}
    for edit in reversed(plan.edits):  # children first
        if edit.key in wanted and edit.carry is not None:
            wanted.add(edit.source)
    strips = tuple(strip for strip in plan.strips if any(edit.key in wanted for edit in strip.made))
    names = {strip.photo.name for strip in strips}
    photos = tuple(photo for photo in plan.photos if photo.name in names)
    return replace(plan, photos=photos, strips=strips, edits=tuple(edit for edit in plan.edits if edit.key in wanted))


def compare(expected: Witness, actual: Witness, level: Level, cases: Sequence[Case]) -> Iterator[Finding]:
    """A Finding a case, in order."""
    for case in cases:
        try:
            yield _file(expected, actual, case) if level is Level.BITWISE else _picture(expected, actual, level, case)
        except PhotoError as error:
            yield Finding(case, "absent", f"its picture cannot be read: {error}")


def _file(expected: Witness, actual: Witness, case: Case) -> Finding:
    old, new = expected.file_sha256(case), actual.file_sha256(case)
    if old is None or new is None:
        return Finding(case, "absent", "its file is gone" if old is None else _unmade(actual, case.key))
    if old == new:
        return Finding(case, "equal")
    distance = _between(expected.picture(case.key), actual.picture(case.key))
    known = expected.pixels_sha256(case.key), actual.pixels_sha256(case.key)
    why = "the file differs, the picture in it does not" if known[0] == known[1] else "the picture differs"
    return Finding(case, "differs", why, distance if known[0] != known[1] else None)


def _picture(expected: Witness, actual: Witness, level: Level, case: Case) -> Finding:
    old, new = expected.pixels_sha256(case.key), actual.pixels_sha256(case.key)
    if old is None or new is None:
        return Finding(case, "absent", "its picture is gone" if old is None else _unmade(actual, case.key))
    if old == new:
        return Finding(case, "equal")
    before, after = expected.picture(case.key), actual.picture(case.key)
    if before is None or after is None:
        return Finding(case, "differs", "the picture differs; a lock cannot say how far")
    distance = _between(before, after)
    if distance is None:
        return Finding(case, "differs", "the picture has another size")
    return Finding(case, "equal" if within(distance, level) else "differs", _say(distance), distance)


def _unmade(actual: Witness, key: str) -> str:
    why = actual.why_absent(key)
    return f"there is none to compare with: {why}" if why else "there is none to compare with"


def within(distance: Distance, level: Level) -> bool:
    """Whether two pictures that far apart count as equal. Bitwise asks for the same pixels."""
    if level is Level.PERCEPTUAL:
        return distance.ssim >= MIN_SSIM
    if level is Level.PIXELS:
        return distance.rms <= MAX_RMS and distance.most <= MAX_DIFFERENCE
    return distance.most == 0


def measure(expected: Pixels, actual: Pixels) -> Distance:
    """How far two pictures [h, w, 3] of one size are apart."""
    difference = actual.astype(np.int16) - expected
    rms = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    # SSIM is of luma, and luma alone would take a grey picture for the coloured one.
    alike = min(ssim(_channel(expected, c), _channel(actual, c)) for c in range(3))
    return Distance(rms, int(np.abs(difference).max()), alike)


def _channel(pixels: Pixels, channel: int) -> Pixels:
    return np.repeat(pixels[..., channel : channel + 1], 3, axis=2)


def _between(expected: Pixels | None, actual: Pixels | None) -> Distance | None:
    if expected is None or actual is None or expected.shape != actual.shape:
        return None
    return measure(expected, actual)


def _say(distance: Distance) -> str:
    return f"RMS {distance.rms:.2f}, at most {distance.most} of 255, SSIM {distance.ssim:.4f}"
