"""The lock of a finished run: all that its pictures hang on, and the digests of what came out, in one YAML file.

    lock = make_lock(view, plan, surroundings)        # from a finished run
    write_lock(lock, lock_path(recipe))
    for difference in stale.stale(lock, plan, surroundings): print(difference)

A lock is compared, never obeyed: nothing here makes a picture. It asks after pictures, not after texts: a comment in
the recipe, another folder or a renamed output folder make no lock stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.buckets.locations import shown
from ip2pbatch.errors import DamagedError, StaleError
from ip2pbatch.pictures.lossless import pixel_digest
from ip2pbatch.pictures.sizing import Sizing
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.directory.sessions import Session
from ip2pbatch.run.directory.standing_files import digest_now
from ip2pbatch.run.directory.view import RunView

_HEAD = "# Written by `ip2pbatch lock`; `lock --check` says what is stale, `ip2pbatch verify` compares the pictures.\n"
_DEPTH = 8
_DUMPER: type = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Part(BaseModel):
    """A lock is read back after merges and by other versions: an unknown or a missing key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedEngine(_Part):
    """EngineSpec, field by field."""

    model: str
    model_digest: str
    backend: str
    provider: str
    precision: str
    determinism: str
    approximations: tuple[str, ...]
    sizing: Sizing = "bicubic"

    @property
    def spec(self) -> EngineSpec:
        return EngineSpec(**dict(self))


class LockedBatch(_Part):
    """The shape of calls: Edits at most, and the rows that each size's network calls are padded to ("512x344": 12).

    `steps` are the speed-ups that were in; None in a lock that was written before they were noted.
    """

    edits: int
    rows: dict[str, int]
    steps: tuple[str, ...] | None = None


class LockedEdit(_Part):
    """One picture of the model. `pixels` is the sha256 of its RGB bytes, row by row from the top left."""

    photo: str
    instruction: str
    seed: int
    pixels: str


class Unmatched(_Part):
    """An Edit of which there is no picture, because nothing that its region seeks is in its photo."""

    photo: str
    instruction: str


class LockedFile(_Part):
    """One delivered file: link `link` of the recipe's edit `id` on `photo`. `sha256` is of the whole file, of one that
    is signed as it was before: a signature is never the same again. `strength` is its edit's own, if it has one.
    """

    photo: str
    id: str
    link: int
    edit: str
    sha256: str
    strength: float | None = None


class Lock(_Part):
    """Everything in a lock file, in its order. Maps are by photo name, Edit key and path below the output folder."""

    lock: Literal[1]
    recipe: str
    versions: dict[str, str]
    engine: LockedEngine
    revision: str
    weights: dict[str, str]
    device: str
    batch: LockedBatch
    safety: bool
    output: dict[str, str | int | float | bool]
    photos: dict[str, str]
    edits: dict[str, LockedEdit]
    unmatched: dict[str, Unmatched] = {}
    files: dict[str, LockedFile]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What pictures hang on beside the plan, as it is now; None is not known, and then not compared.

    `weights` maps the model's files to sha256s; `output` are the settings that shape delivered files, and their names.
    """

    versions: Mapping[str, str]
    safety: bool
    output: Mapping[str, str | int | float | bool]
    revision: str | None = None
    weights: Mapping[str, str] | None = None
    spec: EngineSpec | None = None
    device: str | None = None


def lock_path(recipe: Path) -> Path:
    """`shoot.yaml` → `shoot.lock.yaml` beside it."""
    return recipe.with_name(f"{recipe.stem}.lock.yaml")


def make_lock(view: RunView, plan: Plan, now: Surroundings, recipe: str) -> Lock:
    """The lock of a finished run of `plan`; `recipe` is the file's name. Opens every picture.

    Raises StaleError where pictures or files of the plan are left, or a delivered file was changed since.
    """
    _refuse_unfinished(view, plan)
    engine: dict[str, Any] = last_event(view, "engine")
    return Lock(
        lock=1,
        recipe=recipe,
        versions=dict(made_with(view)),
        engine=LockedEngine(**asdict(view.spec)),
        revision=now.revision or "",
        weights=dict(now.weights or {}),
        device=engine["device"],
        batch=LockedBatch(edits=engine["batch"], rows=engine["rows"], steps=engine.get("steps")),
        safety=now.safety,
        output=dict(now.output),
        photos={photo.name: photo.digest for photo in plan.photos},
        edits=_edits(view, plan),
        unmatched=_unmatched(view, plan),
        files=dict(_files(view, plan)),
    )


def write_lock(lock: Lock, path: Path) -> None:
    """Write the file whole, a line a photo, edit and file, so that a version control's diff shows what changed."""
    data = lock.model_dump(mode="json")
    if lock.engine.sizing == "bicubic":  # locks of such runs never said it
        del data["engine"]["sizing"]
    if not lock.unmatched:  # most have none, and locks did not always say it
        del data["unmatched"]
    for file in data["files"].values():
        if file["strength"] is None:
            del file["strength"]
    text = "".join(_section(name, value) for name, value in data.items())
    write_whole(path, (_HEAD + text).encode("utf-8"))


def _section(name: str, value: object) -> str:
    """A key of the file; maps as a line an entry, and what an entry holds within its line."""
    entries = value.values() if isinstance(value, dict) else ()
    flow = None if any(isinstance(entry, (dict, list)) for entry in entries) else False
    text = yaml.dump(
        {name: value}, Dumper=_DUMPER, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=1 << 20
    )
    return str(text)


def read_lock(path: Path) -> Lock:
    """The lock in a file. Raises StaleError where there is none, or it is not one that this version wrote."""
    hint = "write it with `ip2pbatch lock` from a finished run"
    try:
        text = path.read_text("utf-8")
        _refuse_deep(text)
        found = yaml.load(text, Loader=_LOADER)
        if not isinstance(found, dict) or "lock" not in found:
            raise StaleError(f"{path} is no lock", hint=hint)
        if found["lock"] != 1:
            raise StaleError(f"{path} is a lock of another version of ip2pbatch: lock is {found['lock']}", hint=hint)
        return Lock.model_validate(found)
    except FileNotFoundError:
        raise StaleError(f"there is no lock {path}", hint=hint) from None
    except OSError as error:
        raise StaleError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise StaleError(f"{path} is no lock: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint=hint) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StaleError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}", hint=hint) from None


def _refuse_deep(text: str) -> None:
    """Raises YAMLError for what no lock has: aliases, and depths at which PyYAML's C half overruns its stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it is nested too deeply, or has an alias")


def last_event(view: RunView, kind: str) -> dict[str, Any]:
    """What the newest session that noted it said about its engine or delivery. Raises StaleError where none did."""
    for session in reversed(view.sessions):
        for event in reversed(session.events):
            if event["event"] == kind:
                return {name: value for name, value in event.items() if name != "event"}
    raise StaleError(f"{view.root} does not say what its {kind} was", hint="make the pictures again with --fresh")


def made_with(view: RunView) -> Mapping[str, str]:
    """The versions of the newest session that made pictures: a later one that found all done opened no engine."""
    return _makers(view)[-1].versions


def _makers(view: RunView) -> list[Session]:
    """The sessions that opened an engine; all, where none did."""
    return [s for s in view.sessions if any(e["event"] == "engine" for e in s.events)] or list(view.sessions)


def caveats(view: RunView) -> list[str]:
    """What was not the same for all of a run's pictures, in plain sentences: versions, devices, batch shapes, steps.

    A lock names the last, and a verification makes the pictures again with it.
    """
    said = []
    makers = _makers(view)
    for name, last in view.sessions[-1].versions.items() if view.sessions else ():
        seen = dict.fromkeys(session.versions.get(name, "none") for session in makers)
        if len(seen) > 1:
            said.append(f"the run was made with {name} {' and '.join(seen)}; the last counts")
        elif last not in seen:
            (made,) = seen
            said.append(f"files may have been delivered with {name} {last}; the pictures were made with {made}")
    if events_of(view, "shrunk"):
        said.append("memory ran out on the way, so not every picture was made in the run's batch shape")
    engines = events_of(view, "engine")
    devices = dict.fromkeys(name for event in engines for name in devices_of(event))
    if len(devices) > 1:
        said.append(f"the run was made on {' and '.join(devices)}; the last counts")
    rows: dict[str, set[int]] = {}
    for size, bucket in (pair for event in engines for pair in event["rows"].items()):
        rows.setdefault(size, set()).add(bucket)
    mixed = [f"{' and '.join(map(str, sorted(found)))} at {size}" for size, found in rows.items() if len(found) > 1]
    if mixed:
        said.append(f"calls of the network had {', '.join(mixed)} rows; the last counts")
    steps = dict.fromkeys(", ".join(event["steps"]) or "none" for event in engines if "steps" in event)
    if len(steps) > 1:
        said.append(f"the run was made with other speed-ups in other sessions ({'; '.join(steps)}); the last counts")
    return said


def events_of(view: RunView, kind: str) -> list[Mapping[str, Any]]:
    """What sessions noted of a kind, oldest first."""
    return [event for session in view.sessions for event in session.events if event["event"] == kind]


def devices_of(event: Mapping[str, Any]) -> tuple[str, ...]:
    """The devices of a session that opened an engine, as it noted them: of several workers there may be others."""
    return (event["device"], *event.get("devices", {}).values())


def _refuse_unfinished(view: RunView, plan: Plan) -> None:
    states = Counter(_state(view, edit) for edit in plan.edits)
    left = ", ".join(f"{count} {state}" for state, count in states.items() if state not in ("done", "unmatched"))
    if left:
        raise StaleError(
            f"the run in {view.root} is not finished: {left} of {len(plan.edits)} edits",
            hint="run the recipe to its end first; exclude what can never be edited",
        )


def _state(view: RunView, edit: Edit) -> str:
    record = view.record(edit.key)
    if record is None or (record.status == "done" and not view.is_done(edit.key)):
        return "left"
    return record.status


def _edits(view: RunView, plan: Plan) -> dict[str, LockedEdit]:
    photos = _photos(plan)
    return {
        edit.key: LockedEdit(
            photo=photos[edit.key], instruction=edit.instruction, seed=edit.seed,
            pixels=_pixels(view, edit),
        )
        for edit in plan.edits if _state(view, edit) == "done"
    }  # fmt: skip


def _unmatched(view: RunView, plan: Plan) -> dict[str, Unmatched]:
    photos = _photos(plan)
    return {
        edit.key: Unmatched(photo=photos[edit.key], instruction=edit.instruction)
        for edit in plan.edits if _state(view, edit) == "unmatched"
    }  # fmt: skip


def _photos(plan: Plan) -> dict[str, str]:
    """The first photo that each Edit is of, by its key."""
    return {edit.key: strip.photo.name for strip in reversed(plan.strips) for edit in strip.made}


def _pixels(view: RunView, edit: Edit) -> str:
    """The digest of a picture's pixels. Raises StaleError where it is damaged."""
    picture = view.picture(edit.key)
    assert picture is not None  # the run is finished
    try:
        return pixel_digest(picture.pixels())
    except DamagedError as error:
        raise StaleError(f"{error.path}: {error}", hint=error.hint) from None


def _files(view: RunView, plan: Plan) -> Iterator[tuple[str, LockedFile]]:
    for strip in plan.strips:
        for link, edit in view.kept(strip):
            if _state(view, edit) == "unmatched":
                continue
            delivery = view.delivery(strip, edit)
            digest = digest_now(view.files, delivery) if delivery else None
            if delivery is None or digest is None:
                state = f"its file {delivery.path} is gone" if delivery else "it is not delivered"
                raise StaleError(
                    f"{strip.photo.name} ({strip.id}, link {link}): {state}",
                    hint="run the recipe again; where it skips another's file of that name, move that file away first",
                )
            if digest != delivery.sha256:
                raise StaleError(
                    f"{shown(view.files / delivery.path)} was changed since it was delivered",
                    hint="move it away and run the recipe again: it is delivered once more, without the model",
                )
            yield delivery.path, LockedFile(
                photo=strip.photo.name, id=strip.id, link=link, edit=edit.key, sha256=delivery.unsigned or digest,
                strength=strip.strength,
            )  # fmt: skip
