"""The stage runner: configs that name their inputs, fingerprints that say what is stale, stages that resume.

A config is YAML: `stage:` and `maker:` name a module of `STAGES` (the first maker where none is named), `inputs:` other
configs, the rest is the module's own `Config`. Its fingerprint covers the settings, the files they name, the photos,
the inputs' fingerprints and the module's version; every fingerprint has its own folder: nothing that was made is
overwritten, an interrupted stage goes on where it was.

    OUT/<config's name>/<fingerprint>/   what the stage writes
                        started.json     what it was started with
                        done.json        the same with metrics and seconds; written last
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel

from ip2pbatch.backends.pytorch.backend import default_device
from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.disk.digests import file_sha256, folder_digest
from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.shard import Shard, suffix
from ip2pbatch.plan.written.yaml_source import read_yaml, suggest, validate
from ip2pbatch.train.data.photos import find_photos
from ip2pbatch.train.estimates import learn
from ip2pbatch.train.stage import Stage

# Stage → maker → a module with a STAGE (see stage.py). A maker is a module and a line here.
STAGES: dict[str, dict[str, str]] = {
    "captions": {
        "template": "ip2pbatch.train.captions.template",
        "finetune": "ip2pbatch.train.captions.finetune",
        "generate": "ip2pbatch.train.captions.generate",
    },
    "tokenizer": {"clip": "ip2pbatch.train.fit.tokenizer"},
    "pairs": {
        "procedural": "ip2pbatch.train.pairs.procedural",
        "prompt_to_prompt": "ip2pbatch.train.pairs.prompt_to_prompt.stage",
    },
    "autoencoder": {"dc": "ip2pbatch.train.fit.autoencoder"},
    "scores": {"clip": "ip2pbatch.train.pairs.scores"},
    "filter": {"clip": "ip2pbatch.train.pairs.filter"},
    "pack": {"latents": "ip2pbatch.train.data.pack_latents", "pictures": "ip2pbatch.train.data.pack_pictures"},
    "finetune": {"scratch": "ip2pbatch.train.fit.scratch", "stable_diffusion": "ip2pbatch.train.fit.stable_diffusion"},
    "evaluate": {
        "families": "ip2pbatch.train.judge.families",
        "tradeoff": "ip2pbatch.train.judge.tradeoff",
        "magicbrush": "ip2pbatch.train.judge.magicbrush",
    },
}
State = Literal["fresh", "stale", "missing"]


@dataclass(frozen=True)
class StageConfig:
    """A config file read and checked, with the configs it builds on."""

    path: Path
    stage: str
    code: str  # the module's name
    settings: BaseModel
    inputs: Mapping[str, StageConfig] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its suffix: what the stage's folder is called."""
        return self.path.stem

    @property
    def module(self) -> Stage:
        """The stage itself."""
        return stage_of(self.code)


def stage_of(code: str) -> Stage:
    """What the module of that name says of itself."""
    return cast(Stage, importlib.import_module(code).STAGE)


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands: `reason` says why it is not fresh; `folder` is where its result is or will be."""

    config: StageConfig
    state: State
    reason: str
    fingerprint: str
    folder: Path
    facts: dict[str, Any]
    metrics: Mapping[str, float]


def load_config(path: Path, _open: tuple[Path, ...] = ()) -> StageConfig:
    """Read a config and all that it builds on. Raises RecipeError with the place of the mistake."""
    path = path.resolve()
    data, locate = read_yaml(path)
    if path in _open:
        raise RecipeError("is its own input", file=path, hint="inputs must not form a circle")
    if not isinstance(data, dict) or data.get("stage") not in STAGES:
        found = data.get("stage") if isinstance(data, dict) else None
        line, column = locate(["stage"]) if isinstance(data, dict) and "stage" in data else (1, 1)
        hint = suggest(str(found), list(STAGES)) or f"stages are {', '.join(STAGES)}"
        raise RecipeError(f"{found!r} is not a stage", file=path, line=line, column=column, key="stage", hint=hint)
    stage, named = data.pop("stage"), data.pop("inputs", None) or {}
    if not isinstance(named, dict):
        line, column = locate(["inputs"])
        raise RecipeError(
            "must map a stage to a config", file=path, line=line, column=column, key="inputs", hint="pairs: pairs.yaml"
        )
    code = module_of(stage, data, path, locate)
    settings = validate(stage_of(code).config, data, locate)
    inputs = {name: load_config(path.parent / str(file), (*_open, path)) for name, file in named.items()}
    return StageConfig(path, stage, code, with_paths_beside(settings, path.parent), inputs)


def module_of(stage: str, data: dict[str, Any], path: Path, locate: Callable[..., tuple[int, int]]) -> str:
    """The module of a stage's maker, the first where the config names none; `maker` stays only where Config has it."""
    makers = STAGES[stage]
    maker = data.get("maker", next(iter(makers)))
    if maker not in makers:
        line, column = locate(["maker"])
        hint = suggest(str(maker), list(makers)) or f"{stage} can be made by {', '.join(makers)}"
        said = f"{maker!r} is no way to make {stage}"
        raise RecipeError(said, file=path, line=line, column=column, key="maker", hint=hint)
    if "maker" not in stage_of(makers[maker]).config.model_fields:
        data.pop("maker", None)
    return makers[maker]


def with_paths_beside(settings: BaseModel, folder: Path) -> BaseModel:
    """The settings with relative paths read from the config's own folder."""
    beside = {
        name: (folder / value).resolve()
        for name, value in settings
        if isinstance(value, Path) and not value.is_absolute()
    }
    return settings.model_copy(update=beside)


def in_order(config: StageConfig) -> Iterator[StageConfig]:
    """The config and all that it builds on, inputs first, each once."""
    seen: set[Path] = set()

    def visit(one: StageConfig) -> Iterator[StageConfig]:
        if one.path in seen:
            return
        seen.add(one.path)
        for needed in one.inputs.values():
            yield from visit(needed)
        yield one

    yield from visit(config)


def status(config_path: Path, *, photos: Path | None = None, out: Path) -> list[StageStatus]:
    """Every stage of the chain, inputs first: fresh, stale or missing, and why. UsageError where photos are needed."""
    chain = list(in_order(load_config(config_path)))
    reader = next((config for config in chain if config.module.reads_photos), None)
    if reader and photos is None:
        raise UsageError(f"{reader.path} reads photos", hint="give a folder of photos with --photos")
    photos_digest = digest_of_photos(photos) if reader and photos else ""
    known: dict[Path, StageStatus] = {}
    for config in chain:
        known[config.path] = status_of(config, {n: known[c.path] for n, c in config.inputs.items()}, photos_digest, out)
    return list(known.values())


def plan(config_path: Path, *, photos: Path | None = None, out: Path) -> list[StageStatus]:
    """The stages that `run` would carry out, in that order."""
    return [one for one in status(config_path, photos=photos, out=out) if one.state != "fresh"]


def run(config_path: Path, *, photos: Path | None = None, out: Path, shard: Shard | None = None) -> list[StageStatus]:
    """Bring every stage of the chain up to date and return their status; an interrupted one goes on where it was.

    With `shard`, part k of n of the stages that can be split, up to the first that waits for its other parts.
    UsageError where a stage that cannot be split is not fresh.
    """
    chain = status(config_path, photos=photos, out=out)
    folders = {one.config.path: one.folder for one in chain}
    for one in chain:
        inputs = {name: folders[config.path] for name, config in one.config.inputs.items()}
        if one.state != "fresh" and not run_stage(one, inputs, photos, shard):
            break
    return status(config_path, photos=photos, out=out)


def run_stage(one: StageStatus, inputs: dict[str, Path], photos: Path | None, shard: Shard | None = None) -> bool:
    """One stage, its inputs being fresh; `done.json` appears last. Whether it is done, or waits for other shards.

    LockedError where another process is at it.
    """
    module, (rank, count) = one.config.module, process()
    if count > 1 and not module.distributed:
        hint = f"bring it up to date with one process first: ip2pbatch train run {one.config.path}"
        raise UsageError(f"{one.config.name} is not fresh and cannot be made by {count} processes", hint=hint)
    if shard and not module.sharded:
        hint = f"bring it up to date without --shard first: ip2pbatch train run {one.config.path}"
        raise UsageError(f"{one.config.name} is not fresh and cannot be split into shards", hint=hint)
    one.folder.mkdir(parents=True, exist_ok=True)
    if rank:  # the first process holds the lock and writes the records
        module.run(one.config.settings, inputs, one.folder, photos)
        return True
    lock = WriterLock(one.folder, suffix(shard))
    with lock.gate():
        lock.acquire()
    try:
        write_json(one.folder / "started.json", one.facts)
        began = time.monotonic()
        metrics = module.run(one.config.settings, inputs, one.folder, photos, *((shard,) if module.sharded else ()))
        if metrics is None:
            return False
        seconds = round(time.monotonic() - began, 1)
        write_json(one.folder / "done.json", {**one.facts, "metrics": metrics, "seconds": seconds})
        learn(one.config, metrics, default_device(), count)
        return True
    finally:
        lock.release()


def process() -> tuple[int, int]:
    """This process's number and how many were started, as torchrun and accelerate say it in the environment."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def status_of(config: StageConfig, inputs: Mapping[str, StageStatus], photos_digest: str, out: Path) -> StageStatus:
    """One stage's status, its inputs' being known."""
    facts = {
        "version": config.module.version,
        "settings": recorded_settings(config.settings),
        "photos": photos_digest if config.module.reads_photos else "",
        "inputs": {name: one.fingerprint for name, one in inputs.items()},
    }
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / config.name / fingerprint
    done = read_json(folder / "done.json")
    metrics = done.get("metrics", {})
    waiting = [name for name, one in inputs.items() if one.state != "fresh"]
    if done and not waiting:
        return StageStatus(config, "fresh", "", fingerprint, folder, facts, metrics)
    state, reason = why_not_fresh(folder, facts)
    return StageStatus(config, state, reason or f"{waiting[0]} is not fresh", fingerprint, folder, facts, metrics)


def recorded_settings(settings: BaseModel) -> dict[str, Any]:
    """The settings as they are recorded: where a file lies changes nothing, so its digest stands for its path."""
    recorded: dict[str, Any] = json.loads(settings.model_dump_json())
    for name, value in settings:
        if isinstance(value, Path) and name in recorded:
            recorded[name] = digest_of_path(value)
    return recorded


def digest_of_path(path: Path) -> str:
    """Of a file or of a model's folder, by what is in them; the name of any other folder, which may hold a data set."""
    if path.is_file():
        return file_sha256(path)[:16]
    if not any((path / name).is_file() for name in ("config.json", "model_index.json")):
        return path.name
    return folder_digest(path)[:16]


def why_not_fresh(folder: Path, facts: dict[str, Any]) -> tuple[State, str]:
    """Stale or missing, and how the newest result of another fingerprint differs; no reason if nothing does."""
    if (folder / "done.json").exists():
        return "stale", ""
    if (folder / "started.json").exists():
        return "missing", "was interrupted and will go on"
    others = sorted(folder.parent.glob("*/done.json"), key=lambda path: path.stat().st_mtime)
    if not others:
        return "missing", "has never been made"
    return "stale", "; ".join(differences(read_json(others[-1]), facts))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words: which settings, inputs, photos or code differ between two records."""
    said = []
    if old.get("version") != new["version"]:
        said.append(f"the stage's code is version {new['version']}, was {old.get('version')}")
    for key, value in new["settings"].items():
        if old.get("settings", {}).get(key) != value:
            said.append(f"{key} is {value}, was {old.get('settings', {}).get(key)}")
    said += [f"input {name} changed" for name, value in new["inputs"].items() if old["inputs"].get(name) != value]
    return said + (["the photos changed"] if old.get("photos") != new["photos"] else [])


def digest_of_photos(photos: Path) -> str:
    """One digest of all photos below the folder: their names and bytes."""
    listing = "\n".join(f"{photo.name} {photo.digest}" for photo in find_photos(photos))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """The record at `path`, or an empty one."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """The record, whole or not at all."""
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
