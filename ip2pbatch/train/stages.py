"""The stage runner: fingerprints that say what is stale and why, and stages that resume.

Every fingerprint (see fingerprints.py) has its own folder: nothing that was made is overwritten, and an interrupted
stage goes on where it was, or is refused where its data are not what they were.

    OUT/<config's name>/<fingerprint>/   what the stage writes
                        started.json     what it was started with
                        read/            manifests of the folders that it reads
                        done.json        what it was started with, metrics and seconds; written last
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from ip2pbatch.backends import hub
from ip2pbatch.disk.atomic import TEMPORARY, sweep, write_atomic
from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.shard import Shard, suffix
from ip2pbatch.train.checks import problems
from ip2pbatch.train.configs import StageConfig, in_order, load_config, with_values
from ip2pbatch.train.estimates import learn
from ip2pbatch.train.fingerprints import (
    UNKNOWN,
    Known,
    begun_with_other_data,
    differences,
    digest_of_photos,
    flatten,
    known_of,
    read_json,
    recognised,
    write_manifests,
)
from ip2pbatch.train.model_names import HubSet, ModelName, commit_of, pinned
from ip2pbatch.train.revisions import learn_revisions, revisions

if TYPE_CHECKING:
    from ip2pbatch.train.on_cluster import Cluster

State = Literal["fresh", "stale", "missing"]
_SEEN = TEMPORARY.replace("*", "seen-*")  # by workers of a cluster; whoever put it there and was killed leaves it
INTERRUPTED = "was interrupted and will go on"


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands: `reason` says why it is not fresh; `folder` is where its result is or will be."""

    config: StageConfig
    state: State
    reason: str
    folder: Path
    known: Known
    metrics: Mapping[str, float]

    @property
    def fingerprint(self) -> str:
        """What the stages after it know it by."""
        return self.folder.name


def status(config_path: Path, *, photos: Path | None = None, out: Path) -> list[StageStatus]:
    """Every stage of the chain, inputs first: fresh, stale or missing, and why. UsageError where photos are needed."""
    return status_of_chain(load_pinned(config_path, out), photos, out)


def load_pinned(config_path: Path, out: Path) -> StageConfig:
    """A config and all that it builds on, with every data set of the hub at the commit at which `out` reads it."""
    known = revisions(out)

    def at_commit(value: Any) -> Any:
        return value.at(known[value]) if isinstance(value, HubSet) and value in known else value

    def pinned_config(config: StageConfig) -> StageConfig:
        inputs = {name: pinned_config(one) for name, one in config.inputs.items()}
        return replace(config, settings=with_values(config.settings, at_commit), inputs=inputs)

    return pinned_config(load_config(config_path))


def status_of_chain(config: StageConfig, photos: Path | None, out: Path) -> list[StageStatus]:
    """The same of a config that was read."""
    chain = list(in_order(config))
    reader = next((one for one in chain if one.module.reads_photos), None)
    if reader and photos is None:
        raise UsageError(f"{reader.path} reads photos", hint="give a folder of photos with --photos")
    photos_digest = digest_of_photos(photos) if reader and photos else ""
    found: dict[Path, StageStatus] = {}
    for one in chain:
        inputs = {name: found[needed.path] for name, needed in one.inputs.items()}
        known = known_of(one, {name: made.fingerprint for name, made in inputs.items()}, photos, photos_digest)
        found[one.path] = status_of(one, known, inputs, out)
    return list(found.values())


def status_of(config: StageConfig, known: Known, inputs: Mapping[str, StageStatus], out: Path) -> StageStatus:
    """One stage's status, its inputs' being known."""
    parent = out / config.name
    folder = parent / known.fingerprint
    if not (folder / "done.json").exists():
        folder = recognised(parent, known) or folder
    done = read_json(folder / "done.json")
    metrics = done.get("metrics", {})
    waiting = [name for name, one in inputs.items() if one.state != "fresh"]
    if done and not waiting:
        return StageStatus(config, "fresh", "", folder, known, metrics)
    state, reason = why_not_fresh(folder, known)
    reason = reason or f"{waiting[0]} is not fresh"
    if step := config.module.begins_at(config.settings, folder, known.record):
        reason += f" from step {step:,}" if reason == INTERRUPTED else f"; goes on from step {step:,}"
    return StageStatus(config, state, reason, folder, known, metrics)


def why_not_fresh(folder: Path, known: Known) -> tuple[State, str]:
    """Stale or missing, and how the newest result of another fingerprint differs; no reason if nothing does."""
    if (folder / "done.json").exists():
        return "stale", ""
    if (folder / "started.json").exists():
        return "missing", INTERRUPTED
    if begun := begun_with_other_data(folder.parent, known):
        return "stale", "was interrupted, and cannot go on: " + "; ".join(begun[1])
    others = sorted(folder.parent.glob("*/done.json"), key=lambda path: path.stat().st_mtime)
    if not others:
        return "missing", "has never been made"
    return "stale", "; ".join(differences(read_json(others[-1]), known, others[-1].parent))


def plan(config_path: Path, *, photos: Path | None = None, out: Path) -> list[StageStatus]:
    """The stages that `run` would carry out, in that order."""
    return [one for one in status(config_path, photos=photos, out=out) if one.state != "fresh"]


def run(
    config_path: Path, *, photos: Path | None = None, out: Path, shard: Shard | None = None,
    cluster: Cluster | None = None,
) -> list[StageStatus]:  # fmt: skip
    """Bring every stage of the chain up to date and return their status; an interrupted one goes on where it was.

    With `shard`, part k of n of the stages that can be split, up to the first that waits for its other parts; with
    `cluster`, by its workers (MissingError where there is none).
    UsageError where a stage that cannot be split is not fresh, or was interrupted and its data have changed.
    """
    config = load_pinned(config_path, out)
    chain = status_of_chain(config, photos, out)
    refuse_other_data(chain)
    left = [one.config for one in chain if one.state != "fresh"]
    for problem in problems(left):
        raise problem
    if cluster and left:
        refuse_undealt(chain)
    sets = [value for one in left for _, value in one.sources() if isinstance(value, HubSet) and not value.commit]
    if learn_revisions(sets, out) | learn_commits(left):
        config = load_pinned(config_path, out)
        chain = status_of_chain(config, photos, out)
    folders = {one.config.path: one.folder for one in chain}
    for one in chain:
        inputs = {name: folders[needed.path] for name, needed in one.config.inputs.items()}
        if one.state != "fresh" and not run_stage(one, inputs, photos, shard, cluster):
            break
    return status_of_chain(config, photos, out)


def learn_commits(configs: Sequence[StageConfig]) -> bool:
    """Ask the hub for the commit of every model that these stages name and this machine does not know; whether there
    was any. ModelError before anything begins where one cannot be had."""
    named = {value for one in configs for _, value in one.sources() if isinstance(value, ModelName)}
    unknown = [name for name in sorted(named) if name.is_hub_id and commit_of(name) is None]
    for name in unknown:
        hub.fetch_index(*name.hub)
    return bool(unknown)


def refuse_other_data(chain: Sequence[StageStatus]) -> None:
    """UsageError where an interrupted stage would begin anew because what it reads is not what it was."""
    for one in chain:
        if one.state == "fresh" or (one.folder / "started.json").exists():
            continue
        if begun := begun_with_other_data(one.folder.parent, one.known):
            raise UsageError(
                f"{one.config.name} was interrupted, and cannot go on with other data: {'; '.join(begun[1])}",
                hint=f"bring back what it was begun with, or remove {begun[0]} to begin anew",
            )


def run_stage(
    one: StageStatus, inputs: dict[str, Path], photos: Path | None, shard: Shard | None = None,
    cluster: Cluster | None = None,
) -> bool:  # fmt: skip
    """One stage, its inputs being fresh; `done.json` appears last. Whether it is done, or waits for other shards.

    LockedError where another process is at it.
    """
    module, (rank, count) = one.config.module, process()
    refuse_parts(one, count, shard)
    refuse_changed(one, photos, "run again: it is looked at anew")
    one.folder.mkdir(parents=True, exist_ok=True)
    settings = as_looked_at(one.config)
    if rank:  # the first process holds the lock and writes the records
        module.run(settings, inputs, one.folder, photos)
        return True
    lock = WriterLock(one.folder, suffix(shard))
    with lock.gate():
        lock.acquire()
    try:
        sweep(one.folder.glob(_SEEN))
        write_json(one.folder / "started.json", one.known.record)
        write_manifests(one.known, one.folder)
        began = time.monotonic()
        if cluster:
            # not before: what is asked of one process needs none of it
            from ip2pbatch.train.on_cluster import make_rows
            from ip2pbatch.train.row_worker import RowOpening

            opening = RowOpening.of(one.config.code, settings, inputs, one.folder)
            metrics: dict[str, float] | None = make_rows(opening, cluster)
        else:
            metrics = module.run(settings, inputs, one.folder, photos, *((shard,) if module.rows else ()))
        if metrics is None:
            return False
        refuse_changed(one, photos, f"remove {one.folder} and run again, with data that nobody writes to meanwhile")
        seconds = round(time.monotonic() - began, 1)
        write_json(one.folder / "done.json", {**one.known.record, "metrics": metrics, "seconds": seconds})
        # not before: it takes seconds to import, which `train plan` and `status` need not
        from ip2pbatch.backends.pytorch import accelerators

        if not cluster:  # whose workers are not this device
            learn(one.config, metrics, accelerators.default(), count)
        return True
    finally:
        lock.release()


def refuse_parts(one: StageStatus, processes: int, shard: Shard | None) -> None:
    """UsageError where a stage is to be made by several processes, or in parts, and cannot be."""
    module, command = one.config.module, f"ip2pbatch train run {one.config.path}"
    if processes > 1 and not module.distributed:
        hint = f"bring it up to date with one process first: {command}"
        raise UsageError(f"{one.config.name} is not fresh and cannot be made by {processes} processes", hint=hint)
    if shard and not module.rows:
        hint = f"bring it up to date without --shard first: {command}"
        raise UsageError(f"{one.config.name} is not fresh and cannot be split into shards", hint=hint)


def refuse_undealt(chain: Sequence[StageStatus]) -> None:
    """UsageError where a stage that is left has no rows that workers could be dealt, MissingError without Ray: before
    anything begins.
    """
    from ip2pbatch.run.on_ray.cluster import imported

    for one in chain:
        if one.state != "fresh" and one.config.module.rows is None:
            raise UsageError(
                f"{one.config.name} is not fresh, and has no rows that could be dealt to workers",
                hint=f"bring it up to date without --on first: ip2pbatch train run {one.config.path}",
            )
    if process()[1] > 1:
        raise UsageError("--on is not for several processes", hint="start one, without torchrun: it has workers")
    imported()


def as_looked_at(config: StageConfig) -> BaseModel:
    """The settings with every model of the hub pinned to the commit that is in the facts."""

    def at_commit(value: Any) -> Any:
        if not isinstance(value, ModelName) or value in config.inputs or not value.is_hub_id:
            return value
        commit = commit_of(value)
        return pinned(value, commit) if commit else value

    settings: BaseModel = with_values(config.settings, at_commit)
    return settings


def refuse_changed(one: StageStatus, photos: Path | None, hint: str) -> None:
    """UsageError where what a stage reads is not what it was when it was looked at: it neither begins nor is done."""
    photos_digest = digest_of_photos(photos) if photos and one.config.module.reads_photos else ""
    now = known_of(one.config, one.known.facts["inputs"], photos, photos_digest)
    before, after = flatten(one.known.facts), flatten(now.facts)
    changed = [key for key in after if before.get(key) != after[key] and after[key] != UNKNOWN]
    if changed:
        keys = ", ".join(key.removeprefix("settings.") for key in changed)
        raise UsageError(f"{one.config.name} is not done: what it reads has changed meanwhile ({keys})", hint=hint)


def process() -> tuple[int, int]:
    """This process's number and how many were started, as torchrun and accelerate say it in the environment."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """The record, whole or not at all."""
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
