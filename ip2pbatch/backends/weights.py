"""From a model's name to what is checked on disk: one that is embedded, a folder, a file, or a hub id (@revision).

The hub's cache is asked first and the network last; nothing but safetensors, JSON and vocabularies is fetched.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ip2pbatch.backends import additions, artefact, model_folder
from ip2pbatch.backends.additions import NOTHING, Additions
from ip2pbatch.backends.pipeline_folder import base_of, is_network
from ip2pbatch.backends.single_file import ldm_file
from ip2pbatch.disk.contents import sha256s
from ip2pbatch.disk.digests import digest_of
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import EMBEDDED, is_file, model_id, snapshot_of
from ip2pbatch.plan.editors.composed import Composed, composed
from ip2pbatch.plan.families import Family, family_of
from ip2pbatch.plan.written.addresses import hub_hint, is_address

_SHA256 = re.compile(r"[0-9a-f]{64}")
Note = Callable[[str], None]
_TEXTS = (".json", ".txt", ".jinja")
_TIMEOUT = 5.0  # seconds for the hub to answer before it counts as not reachable


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk: `revision` is the hub's commit, "" elsewhere; `digest` covers every file that is loaded, those
    of its safety checker where `checker` says that it is.
    """

    path: Path
    name: str
    revision: str
    digest: str
    kind: model_folder.Kind = "edit"
    checker: bool = True
    laid: Additions = NOTHING


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A line of `ip2pbatch models`: a model that is on this machine, its bytes on disk, and its family's name."""

    name: str
    path: Path
    revision: str
    bytes: int
    family: str


def resolve(
    model: str, *, download: bool = True, kind: model_folder.Kind = "edit", checker: bool = True,
    note: Note = lambda text: None,
) -> ModelFolder:  # fmt: skip
    """The folder of `model`, fetched where it is a hub id that is not cached and `download` allows; `note` hears how
    much that is.

    Without `checker` its safety checker need not be there, is not looked at and not in the digest. LoRAs and another
    autoencoder that are laid over it are found besides, and are in the digest.
    ModelError says what to do where there is none, or where it is no `kind` of model that is loaded.
    """
    asked = composed(model)
    found = _resolved(asked.base, download, kind, checker, note)
    _tell_unloaded(found, note)
    return _laid_over(found, asked) if str(asked) != asked.base else found


def _laid_over(model: ModelFolder, asked: Composed) -> ModelFolder:
    if artefact.is_artefact(model.path):
        raise ModelError(
            f"{model.name} is an exported model, over which no LoRA and no autoencoder is laid",
            hint="leave lora and vae out, or use an InstructPix2Pix model of PyTorch's",
        )
    _refuse_vae(asked, family_of(model.path))
    laid = additions.find(asked, checked(model.path, model.kind, checker=model.checker))
    digest = digest_of({"model": model.digest, **laid.digests})
    return replace(model, name=str(asked), digest=digest, laid=laid)


def _refuse_vae(asked: Composed, family: Family) -> None:
    if asked.vae and family.call is not None:
        why = f"vae: {asked.base} is of {family.called}, which keeps its own autoencoder"
        raise ModelError(why, hint="leave vae out")


def refuse_unfit(model: str) -> None:
    """Raises ModelError where what is laid over a model is not made for it, as far as both are on this machine: names
    and shapes alone are read.
    """
    asked = composed(model)
    if str(asked) == asked.base or (path := _here(asked.base)) is None or artefact.is_artefact(path):
        return
    try:
        layout = checked(path, checker=False)
    except ModelError:
        return  # whoever opens it says what is wrong with it
    _refuse_vae(asked, family_of(path))
    with suppress(additions.AbsentError):
        additions.fitting(asked, layout)


def _here(model: str) -> Path | None:
    """The folder or file of a model that is on this machine."""
    if (own := EMBEDDED.get(model)) is not None:
        return own if (own / "tokenizer").is_dir() else None
    if (path := Path(model).expanduser()).exists():
        return snapshot_of(path).resolve()
    found = None if is_file(model) else model_id(model)
    return cached(*found) if found else None


def _tell_unloaded(model: ModelFolder, note: Note) -> None:
    """Say which weights lie in a model's folder and are not loaded: somebody may have meant them."""
    if model.path.is_file() or artefact.is_artefact(model.path):
        return
    if rest := model_folder.unloaded(model.path, checked(model.path, model.kind, checker=model.checker).files):
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        lora = "; a LoRA is written as lora: beside model:" if any("lora" in name for name in rest) else ""
        note(f"not loaded of {model.name}: {', '.join(rest[:3])}{more}{lora}")


def _resolved(model: str, download: bool, kind: model_folder.Kind, checker: bool, note: Note) -> ModelFolder:
    if model in EMBEDDED:
        return _folder(_embedded(model), model, "", kind, checker)
    folder = Path(model).expanduser()
    if folder.exists():
        return _folder(snapshot_of(folder).resolve(), model, "", kind, checker)
    found = None if is_file(model) else model_id(model)
    if found is None:
        _refuse_address(model)
        raise ModelError(
            f"there is no model {'file' if is_file(model) else 'folder'} {model}",
            hint="give a folder, a .safetensors file, a hub id such as owner/name, or --model tiny",
        )
    repo, revision = found
    path = cached(repo, revision)
    if path is None and not download:
        raise ModelError(f"{model} is not in the cache", hint=_how_to_get(model))
    path = path or _fetch(repo, revision, note)
    return _folder(path, model, path.name, kind, checker)


def _embedded(model: str) -> Path:
    if not (EMBEDDED[model] / "tokenizer").is_dir():
        raise ModelError("the embedded model is not in ip2pbatch-light", hint="pip install ip2pbatch")
    return EMBEDDED[model]


def is_known_as(model: str, digest: str) -> bool:
    """Whether a model of this machine has, or had in earlier runs, this digest: with its safety checker or without."""
    for checker in (False, True):
        with suppress(ModelError):
            if resolve(model, download=False, checker=checker).digest == digest:
                return True
    return False


def pull(model: str, note: Note = lambda text: None) -> ModelFolder:
    """Fetch a hub model, or bring it up to date; `note` hears before how much it is.

    ModelError where the hub cannot be reached or has no such model.
    """
    found = model_id(model)
    if found is None:
        _refuse_address(model)
        raise ModelError(f"{model} is not a hub id", hint="it looks like owner/name or owner/name@revision")
    path = _fetch(*found, note)
    return _folder(path, model, path.name)


def _refuse_address(model: str) -> None:
    if is_address(model):
        raise ModelError(f"{model} is an address and no model", hint=hub_hint(model))


def list_models() -> list[KnownModel]:
    """The models on this machine: the embedded ones, and the editing models in the hub's cache."""
    own = (known for name, path in EMBEDDED.items() for known in _known(name, path, ""))
    return [*own, *_cached_models()]


def file_digests(path: Path, files: tuple[str, ...] | None = None, *, checker: bool = True) -> dict[str, str]:
    """The sha256 of each file of a model that is loaded, by name; remembered by path, size and mtime."""
    if path.is_file():
        return {"checkpoint": sha256s([path])[0], "vocabulary": ldm_file.check(path).vocabulary.digest}
    if files is None:
        exported = artefact.is_artefact(path)
        files = artefact.read(path).loaded(checker) if exported else checked(path, checker=checker).files
    hashes = sha256s([path / name for name in files])
    for name, value in zip(files, hashes, strict=True):
        # The hub's cache names large files by their sha256, so that a damaged one gives itself away.
        promised = (path / name).resolve().name
        if _SHA256.fullmatch(promised) and promised != value:
            raise ModelError(
                f"{path / name} is damaged: its sha256 is {value}, the hub's is {promised}",
                hint=f"delete {(path / name).resolve()} and fetch the model again",
            )
    return dict(zip(files, hashes, strict=True))


def _folder(
    path: Path, name: str, revision: str, kind: model_folder.Kind = "edit", checker: bool = True
) -> ModelFolder:  # fmt: skip
    if artefact.is_artefact(path):  # an export says itself whose weights it holds; its files are checked as it loads
        return ModelFolder(path, name, revision, artefact.read(path).model_digest, kind, checker)
    files = file_digests(path, checked(path, kind, checker=checker).files)
    if (version := family_of(path).version) > 1:
        files["version of its family"] = str(version)
    return ModelFolder(path, name, revision, digest_of(files), kind, checker)


def checked(path: Path, kind: model_folder.Kind = "edit", *, checker: bool = True) -> model_folder.Layout:
    """The Layout of a model's folder, by its family's own check. Raises ModelError."""
    module, _, function = family_of(path).check.partition(":")
    found = getattr(importlib.import_module(module), function)(path, kind, checker=checker)
    return cast(model_folder.Layout, found)


def cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the hub's cache, or None where there is none or it lacks files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (OSError, ValueError, HFValidationError):
        return None
    # A snapshot that lacks whole files was cut short: it is fetched on. A wrong one is refused with its reason later.
    return path if (path / "model_index.json").is_file() and not _missing_folders(path) else None


def _missing_folders(path: Path) -> list[str]:
    index = model_folder.read_json(path / "model_index.json")
    return [
        name
        for name in _components(family_of(path))
        if isinstance(index.get(name), list) and index[name][1] and not (path / name).is_dir()
    ]


def _components(family: Family) -> dict[str, str]:
    """Its components, and how the weights of each are called: "" where it has none."""
    if not family.components:
        return {name: model_folder.WEIGHTS.get(name, "") for name in model_folder.CLASSES}
    return {name: base_of(name) if is_network(name) else "" for name in family.components}


def _fetch(repo: str, revision: str | None, note: Note) -> Path:
    """Download what is loaded of `repo` into the hub's cache, at the commit that `revision` means now."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    name = repo if revision is None else f"{repo}@{revision}"
    hint = _how_to_get(name)
    if constants.is_offline_mode():
        raise ModelError(f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", hint=hint)
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
        if "model_index.json" not in sizes:
            raise ModelError(
                f"{name} is not a model in diffusers' layout", hint="see `ip2pbatch models` for ones that are"
            )
        new = {file for file in sizes if not _is_cached(repo, file, str(info.sha))}
        files = wanted_files(list(sizes), _family_at(repo, str(info.sha)))
        _tell_size(name, {file: sizes[file] for file in files if file in new}, note)
        return _download(repo, revision, str(info.sha), files)
    except HfHubHTTPError as error:
        raise ModelError(
            f"the hub refused {name}: {first_line(error)}", hint="check the name and the revision"
        ) from error
    except (unreachable(), OSError) as error:
        raise ModelError(
            f"{name} is not in the cache, and the hub is not reachable ({first_line(error)})", hint=hint
        ) from error


def _family_at(repo: str, commit: str) -> Family:
    """That of a repository by its index at one commit, which is fetched: the cache learns of no revision by it."""
    from huggingface_hub import hf_hub_download

    return family_of(Path(hf_hub_download(repo, "model_index.json", revision=commit, etag_timeout=_TIMEOUT)).parent)


def _is_cached(repo: str, file: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, file, revision=commit), str)


def _tell_size(name: str, sizes: Mapping[str, int | None], note: Note) -> None:
    """Say how much is about to be fetched, where the hub's listing says it."""
    known = [size for size in sizes.values() if size is not None]
    if sizes:
        size = f", {sum(known) / 1e9:.1f} GB" if sum(known) >= 1e8 else f", {sum(known) / 1e6:.1f} MB"
        files = "1 file" if len(sizes) == 1 else f"{len(sizes)} files"
        note(f"downloading {name} from the hub: {files}{size if len(known) == len(sizes) else ''}")


def _download(repo: str, revision: str | None, commit: str, files: list[str]) -> Path:
    """Bring `files` of one commit into the hub's cache; the snapshot's folder.

    The index comes last and under the revision's own name: that is what makes the cache know the revision, and it
    never does so for a snapshot that was cut short.
    """
    from huggingface_hub import hf_hub_download

    def get(name: str, at: str) -> Path:
        return Path(hf_hub_download(repo, name, revision=at, etag_timeout=_TIMEOUT))

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda name: get(name, commit), files))
    snapshot = get("model_index.json", revision or "main").parent
    if snapshot.name != commit:
        raise ModelError(f"{repo} was changed while it was fetched", hint="fetch it again")
    return snapshot


def wanted_files(names: list[str], family: Family | None = None) -> list[str]:
    """Of a repository's files those that are loaded: JSON, vocabularies, and of each component's weights the half-size
    variant where there is one (a GPU runs at fp16 anyhow, and it is half the download); of no `family` those of the
    first."""
    wanted = ["model_index.json"] if "model_index.json" in names else []
    for component, base in _components(family or family_of(None)).items():
        inside = [name for name in names if name.startswith(f"{component}/") and name.count("/") == 1]
        wanted += [name for name in inside if name.endswith(_TEXTS) and ".safetensors.index" not in name]
        weights = [name for name in inside if ".safetensors" in name]
        half = [name for name in weights if ".fp16." in name]
        full = [
            name
            for name in weights
            if re.fullmatch(rf"{component}/{base}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", name)
        ]
        wanted += half or full
    return wanted


def _how_to_get(name: str) -> str:
    return f"fetch it with `ip2pbatch models pull {name}` where there is a network, or use --model tiny"


def unreachable() -> type[Exception]:
    """What the hub's client raises without a network: its HTTP library's base error, of which no name lasts."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def first_line(error: BaseException) -> str:
    """What an error says, shortly; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cached_models() -> Iterator[KnownModel]:
    from huggingface_hub import constants

    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*/snapshots/*")):
        repo = folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
        yield from _known(repo, folder, folder.name)


def _known(name: str, path: Path, revision: str) -> list[KnownModel]:
    try:
        files = checked(path).files
    except ModelError:
        return []
    size = sum((path / file).stat().st_size for file in files)
    return [KnownModel(name, path, revision, size, family_of(path).called)]
