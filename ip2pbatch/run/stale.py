"""What differs between a lock, or a run, and what a recipe asks for now, in plain sentences for `lock --check`,
`run --locked` and `verify`. A lock's own form, and how it is made of a run, are in run/lock.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ip2pbatch.plan.editors.composed import brief
from ip2pbatch.plan.edits import Plan, Strip
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.directory.sessions import Session
from ip2pbatch.run.lock import Lock, Surroundings

_SHOWN = 5  # names in one line about many
_CHECKER = ("safety_checker/", "feature_extractor/")
_NO_ARITHMETIC = ("ip2pbatch", "python")  # versions: this program's own go on with each other's runs
_THREADS = re.compile(r", \d+ threads$")


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason why a lock is stale: `topic` is photos, recipe, model, engine or versions."""

    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.text}"


def stale(lock: Lock, plan: Plan, now: Surroundings) -> list[Difference]:
    """Every reason why `lock` is not what would be made now, in plain sentences; empty where it is."""
    photos = {photo.name: photo.digest for photo in plan.photos}
    moved = {name for name in {*photos, *lock.photos} if photos.get(name) != lock.photos.get(name)}
    return [
        *_photos(lock.photos, photos, moved),
        *_recipe(lock, plan, moved),
        *_fields("recipe", "output ", lock.output, now.output),
        *_fields("recipe", "", {"safety": lock.safety}, {"safety": now.safety}),
        *_model(lock, plan, now),
        *other_engine(lock, now.spec, now.device),
        *_fields("versions", "", {n: v for n, v in lock.versions.items() if n not in unknown(lock, now)}, now.versions),
    ]


def unknown(lock: Lock, now: Surroundings) -> tuple[str, ...]:
    """The libraries of a lock that are not installed here: their versions are not known, and not compared."""
    return tuple(name for name in lock.versions if name not in now.versions)


def _photos(locked: Mapping[str, str], photos: Mapping[str, str], moved: set[str]) -> Iterator[Difference]:
    added = [name for name in sorted(moved) if name not in locked]
    removed = [name for name in sorted(moved) if name not in photos]
    changed = [name for name in sorted(moved) if name in locked and name in photos]
    for what, names in (("added", added), ("removed", removed), ("changed", changed)):
        if names:
            yield Difference("photos", f"{what}: {_some(names)}")


def _recipe(lock: Lock, plan: Plan, moved: set[str]) -> Iterator[Difference]:
    """What the recipe asks for otherwise, of the photos that are still the same."""
    strips = [strip for strip in plan.strips if strip.photo.name not in moved]
    asked = {edit.key: edit.instruction for strip in strips for edit in strip.made}
    locked = lock.edits | lock.unmatched
    new = Counter(words for key, words in asked.items() if key not in locked)
    gone = Counter(row.instruction for key, row in locked.items() if key not in asked and row.photo not in moved)
    yield from _otherwise(new, gone, "is not locked")
    if not new and not gone:
        old = {(f.photo, f.id, f.link, f.edit, f.strength) for f in lock.files.values() if f.photo not in moved}
        kept = {row for row in _kept(strips) if row[3] not in lock.unmatched}
        names = sorted({f"{row[0]} ({row[1]})" for row in old ^ kept})
        if names:
            yield Difference("recipe", f"delivers other links or strengths, or calls edits otherwise: {_some(names)}")


def _otherwise(new: Counter[str], gone: Counter[str], unknown: str) -> Iterator[Difference]:
    """Two counts by instruction of what only one side has, in words."""
    for words in {**new, **gone}:
        if new[words] and gone[words]:
            yield Difference("recipe", f"“{words}” has other scales, seeds, steps, sampler, size, carry or negative")
        elif new[words]:
            yield Difference("recipe", f"asks for “{words}” ({_count(new[words])}), which {unknown}")
        else:
            yield Difference("recipe", f"does not ask for “{words}” any more ({_count(gone[words])})")


def other_recipe(made: Plan, plan: Plan) -> list[Difference]:
    """What `plan` asks for otherwise than a run's plan `made`, of the photos that both know and that are the same: a
    part of the photos, or a photo that changed, is no other recipe.
    """
    before = {photo.name: photo.digest for photo in made.photos}
    shared = {photo.name for photo in plan.photos if before.get(photo.name) == photo.digest}

    def only_in(one: Plan, other: Plan) -> Counter[str]:
        known = {edit.key for edit in other.edits}
        edits = {e.key: e for strip in one.strips if strip.photo.name in shared for e in strip.made}
        return Counter(edit.instruction for key, edit in edits.items() if key not in known)

    return list(_otherwise(only_in(plan, made), only_in(made, plan), "its run was not asked for"))


def _kept(strips: list[Strip]) -> Iterator[tuple[str, str, int, str, float | None]]:
    for strip in strips:
        for link in strip.keep:
            yield strip.photo.name, strip.id, link, strip.edits[link - 1].key, strip.strength


def _model(lock: Lock, plan: Plan, now: Surroundings) -> Iterator[Difference]:
    folders = Path(lock.engine.model).is_absolute() and Path(plan.model).is_absolute()
    # The same folder lies elsewhere on another machine, and so does what is laid over it.
    if brief(lock.engine.model) != brief(plan.model) and not folders:
        yield Difference("model", f"is {plan.model}, was {lock.engine.model}")
    elif now.revision is not None and now.revision != lock.revision:
        yield Difference("model", f"revision is {now.revision or 'none'}, was {lock.revision or 'none'}")
    if now.weights is not None:
        spared = () if now.safety else _CHECKER  # it is not looked at; older locks name it all the same
        known = [name for name in {**lock.weights, **now.weights} if not name.startswith(spared)]
        names = [name for name in known if lock.weights.get(name) != now.weights.get(name)]
        if names:
            yield Difference("model", f"other files: {_some(names)}")


def other_engine(lock: Lock, spec: EngineSpec | None, device: str | None) -> Iterator[Difference]:
    """What of an engine's identity, and of the device it is on, is not as it was locked, as far as they are known."""
    if spec is not None:
        names = ("backend", "provider", "precision", "determinism", "approximations")
        old, new = asdict(lock.engine.spec), asdict(spec)
        yield from _fields("engine", "", {n: old[n] for n in names}, {n: new[n] for n in names})
    exactly = lock.engine.determinism == "bitwise"
    if device is not None and _device(device, exactly) != _device(lock.device, exactly):
        yield Difference("engine", f"device is {device}, was {lock.device}")


def other_shape(lock: Lock, rows: Mapping[str, int], steps: Sequence[str]) -> Iterator[Difference]:
    """What of an opened engine is not as it was locked: the rows of its calls by size, and its speed-ups."""
    for size, bucket in rows.items():
        if lock.batch.rows.get(size, bucket) != bucket:
            yield Difference("engine", f"calls at {size} have {bucket} network rows, had {lock.batch.rows[size]}")
    if lock.batch.steps is None:
        return
    # How a CPU's threads share the work is compared as the number of its threads is.
    spared = set() if lock.engine.determinism == "bitwise" else {"row-workers"}
    old, new = set(lock.batch.steps) - spared, set(steps) - spared
    if old - new:
        yield Difference("engine", f"speed-ups are left out: {_some(sorted(old - new))}")
    if new - old:
        yield Difference("engine", f"speed-ups are in that were not: {_some(sorted(new - old))}")


def other_bits(sessions: Sequence[Session], device: str, versions: Mapping[str, str]) -> Iterator[Difference]:
    """What the bits of a run's pictures hang on and is not as when the last of them were made: the device, with a CPU's
    threads, and libraries. What the run does not say is not compared.
    """
    for session in reversed(sessions):
        for event in reversed(session.events):
            if event["event"] == "engine":
                exactly = bool(_THREADS.search(device)) == bool(_THREADS.search(event["device"]))
                if _device(device, exactly) != _device(event["device"], exactly):
                    yield Difference("engine", f"device is {device}, was {event['device']}")
                both = [name for name in session.versions if name in versions and name not in _NO_ARITHMETIC]
                old, new = ({name: known[name] for name in both} for known in (session.versions, versions))
                yield from _fields("versions", "", old, new)
                return


def _device(name: str, exactly: bool) -> str:
    """A device as far as it is compared. Another number of a CPU's threads may be another order of sums in float32, of
    about 1e-5 in a latent: that breaks the promise of bitwise and none other.
    """
    return name if exactly else _THREADS.sub("", name)


def _fields(topic: str, prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            words = f"{prefix}{name.replace('_', ' ')}"
            yield Difference(topic, f"{words} is {_say(new.get(name))}, was {_say(old.get(name))}")


def _say(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"
