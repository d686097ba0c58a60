"""What decides a stage's result, as facts; the fingerprint over them; and how the facts of two results differ.

Facts are the settings, with the digest of what is in them in the place of every path and every model of the hub by its
commit; the photos; the fingerprints of the inputs; and the version of the stage's code. Where files lie changes no
result, so paths and names are recorded beside the facts, as `sources`, for people and for two questions: was an
interrupted stage begun with other data under the same name, and is a result made of what is not on this machine now?
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.contents import Contents, contents, digest_of_contents
from ip2pbatch.errors import MissingError
from ip2pbatch.plan.defaults import EMBEDDED
from ip2pbatch.train.configs import StageConfig
from ip2pbatch.train.data.crops import find_photos
from ip2pbatch.train.model_names import HubSet, ModelName, commit_of

READ = "read"  # below a stage's folder: manifests of the folders that it read
PHOTOS = "--photos"  # the key of their folder among the sources
UNKNOWN = "unknown"  # the digest of what is not on this machine
_HUB = "hub:"
_LENGTH = 16  # hex digits of a digest in a record


@dataclass(frozen=True)
class Known:
    """The facts of one stage, and the path or name behind each digest in them by its dotted key. A digest is UNKNOWN
    where the path or model is not on this machine."""

    facts: dict[str, Any]
    sources: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the facts."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:_LENGTH]

    @property
    def unknown(self) -> list[str]:
        """The keys whose digest is not known here."""
        flat = flatten(self.facts["settings"])
        return [key for key in self.sources if key in flat and flat[key] == UNKNOWN]

    @property
    def record(self) -> dict[str, Any]:
        """What a stage's folder says of it."""
        return {**self.facts, "sources": self.sources}


def known_of(config: StageConfig, inputs: Mapping[str, str], photos: Path | None, photos_digest: str) -> Known:
    """The facts of a stage: `inputs` has the fingerprint of each, and the photos count where the stage reads them."""
    settings, sources = recorded_settings(config)
    reads = config.module.reads_photos
    facts = {
        "version": config.module.version,
        "settings": settings,
        "photos": photos_digest if reads else "",
        "inputs": dict(inputs),
    }
    with suppress(MissingError):  # what is not installed is told when it is needed
        if files := config.module.judges(config.settings):
            facts["judges"] = {name: digest_of_path(path) for name, path in files.items()}
    return Known(facts, sources | ({PHOTOS: str(photos)} if reads else {}))


def recorded_settings(config: StageConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings with digests in the place of paths and models, and what each of those stands for by its key."""
    recorded, sources = json.loads(config.settings.model_dump_json()), {}
    for at, value in config.sources():
        holder = recorded
        for part in at[:-1]:
            holder = holder[part]
        holder[at[-1]] = digest_of_source(value)
        sources[".".join(map(str, at))] = str(value)
    return recorded, sources


def digest_of_source(value: Path | ModelName | HubSet) -> str:
    """Of data or of a model; UNKNOWN where this machine does not know it, or no commit of a data set of the hub."""
    if isinstance(value, HubSet):
        return f"{_HUB}{value.commit}" if value.commit else UNKNOWN
    return digest_of_model(value) if isinstance(value, ModelName) else digest_of_path(value)


def digest_of_path(path: Path) -> str:
    """Of a file or of a folder, by what is in them; UNKNOWN where there is nothing."""
    return digest_of_contents(path)[:_LENGTH] if path.exists() else UNKNOWN


def digest_of_model(name: ModelName) -> str:
    """Of a folder by its contents, of a hub model by its commit; UNKNOWN where this machine does not have it."""
    if name in EMBEDDED or name.is_path:
        return digest_of_path(EMBEDDED.get(name, Path(name)))
    commit = commit_of(name) if name.is_hub_id else None
    return f"{_HUB}{commit}" if commit else UNKNOWN


def digest_of_photos(photos: Path) -> str:
    """One digest of all photos below the folder: their names and bytes."""
    listing = "\n".join(f"{photo.name} {photo.digest}" for photo in find_photos(photos))
    return hashlib.sha256(listing.encode()).hexdigest()[:_LENGTH]


def flatten(settings: Any, at: str = "") -> dict[str, Any]:
    """Every single value of recorded settings by its dotted key; a list of plain values is one value."""
    if isinstance(settings, dict) and settings:
        parts: Iterable[tuple[Any, Any]] = settings.items()
    elif isinstance(settings, list) and any(isinstance(one, dict | list) for one in settings):
        parts = enumerate(settings)
    else:
        return {at: settings}
    found: dict[str, Any] = {}
    for name, value in parts:
        found |= flatten(value, f"{at}.{name}" if at else str(name))
    return found


def recognised(parent: Path, known: Known) -> Path | None:
    """The folder of a finished result, below the stage's `parent`, that these facts do not contradict.

    What is not on this machine (data that were removed, a hub model that was never fetched here) is believed to be what
    it was under the same name, and so is a model of the hub that an older version recorded by its name alone.
    """
    done = sorted(parent.glob("*/done.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path.parent for path in done if not contradicts(read_json(path), known)), None)


def contradicts(record: Mapping[str, Any], known: Known) -> bool:
    """Whether a record's facts are others than these, in what both know."""
    if any(record.get(name) != known.facts[name] for name in ("version", "photos", "inputs")):
        return True
    old, new = flatten(record.get("settings", {})), flatten(known.facts["settings"])
    sources, older = record.get("sources", {}), "sources" not in record
    if old.keys() != new.keys():
        return True
    for key in (key for key in new if old[key] != new[key]):
        name = known.sources.get(key)
        by_name = older and name is not None and ModelName(name).is_hub_id and old[key] == name
        if not by_name and not (new[key] == UNKNOWN and name is not None and sources.get(key) == name):
            return True
    judges, were = known.facts.get("judges", {}), record.get("judges", {})
    return not older and any(value != UNKNOWN and were.get(name) != value for name, value in judges.items())


def begun_with_other_data(parent: Path, known: Known) -> tuple[Path, list[str]] | None:
    """An interrupted result of the same settings and names whose data or models have changed since, and how."""
    for path in sorted(parent.glob("*/started.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        record = read_json(path)
        if path.parent.name == known.fingerprint or (path.parent / "done.json").exists():
            continue
        same = {"version", "inputs", "judges"}
        if record.get("sources") != known.sources or any(record.get(k) != known.facts.get(k) for k in same):
            continue
        old, new = flatten(record["settings"]), flatten(known.facts["settings"])
        other = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        if other <= known.sources.keys() and not any(new.get(key) == UNKNOWN for key in other):
            return path.parent, differences(record, known, path.parent)
    return None


def differences(old: Mapping[str, Any], known: Known, folder: Path) -> list[str]:
    """In words: which settings, data, models, inputs, photos or code differ from a record, which lies in `folder`."""
    new, said = known.facts, []
    if old.get("version") != new["version"]:
        said.append(f"the stage's code is version {new['version']}, was {old.get('version')}")
    said += setting_differences(old, known, folder)
    were = old.get("inputs", {})
    said += [f"input {name} changed" for name, value in new["inputs"].items() if were.get(name) != value]
    said += [f"input {name} is gone" for name in were if name not in new["inputs"]]
    judges = old.get("judges", {})
    said += [f"the judge {name} changed" for name, value in new.get("judges", {}).items() if judges.get(name) != value]
    return said + (["the photos changed"] if old.get("photos") != new["photos"] else [])


def setting_differences(old: Mapping[str, Any], known: Known, folder: Path) -> Iterator[str]:
    """The settings that differ, each by its own dotted key."""
    were, are = flatten(old.get("settings", {})), flatten(known.facts["settings"])
    for key in dict.fromkeys([*are, *were]):
        if key not in are:
            yield f"{key} is not set, was {were[key]}"
        elif were.get(key) != are[key] or key not in were:
            named = key in known.sources
            yield source_difference(key, old, known, folder) if named else f"{key} is {are[key]}, was {were.get(key)}"


def source_difference(key: str, old: Mapping[str, Any], known: Known, folder: Path) -> str:
    """How a path or a model differs: by its name, or by what is in it under the same name."""
    name, was = known.sources[key], old.get("sources", {}).get(key)
    if flatten(known.facts["settings"])[key] == UNKNOWN:
        return f"{key} is {name}, which is not here"
    if "sources" not in old:
        return f"{key} is {name}, and was recorded by an older version, by its name alone"
    if was != name:
        return f"{key} is {name}, was {was}"
    then = read_manifest(folder, key)
    if then is None or not Path(name).exists():
        return f"{key} changed: {name} has other contents"
    return f"{key} changed: in {name} " + ", ".join(contents(Path(name)).differences(then))


def write_manifests(known: Known, folder: Path) -> None:
    """What is in the folders that a stage reads, beside its records, so that it can be said what changed."""
    for key, name in known.sources.items():
        path = Path(name)
        if path.is_absolute() and path.is_dir() and key != PHOTOS:
            write_whole(folder / READ / f"{key}.tsv.gz", contents(path).to_bytes())


def read_manifest(folder: Path, key: str) -> Contents | None:
    """What a stage read under `key`; None where it was a file or is not recorded."""
    try:
        return Contents.of((folder / READ / f"{key}.tsv.gz").read_bytes())
    except (OSError, ValueError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """The record at `path`, or an empty one where there is none."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
