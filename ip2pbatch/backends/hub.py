"""What the hub says of a model or a data set before it is fetched: whether there is one, who may have it, its commit,
its files and their bytes.

Only headers and listings cross the network. Where the hub is not reachable, or HF_HUB_OFFLINE is set, nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ip2pbatch.backends.weights import first_line, unreachable, wanted_files
from ip2pbatch.errors import ModelError

_TIMEOUT = 5.0  # seconds for the hub to answer before it counts as not reachable
_INDICES = ("model_index.json", "config.json")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub at one commit: the bytes that loading it fetches."""

    commit: str
    bytes: int


@lru_cache(maxsize=256)
def look_up(repo: str, revision: str) -> HubModel | None:
    """What the hub has under that name; None where it cannot be asked. ModelError where it has no such model, or one
    that is gated and not open to this user.
    """
    found = _asked(repo, revision, "model")
    if found is None:
        return None
    sizes = {one.name: one.bytes for one in found.files}
    return HubModel(found.commit, sum(sizes[name] for name in loaded(list(sizes))))


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set: its bytes, and what the hub knows its contents by (sha256 where it is a large one)."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class HubData:
    """What the hub has under a name at one commit."""

    commit: str
    files: tuple[HubFile, ...]


@lru_cache(maxsize=64)
def look_up_data(repo: str, revision: str) -> HubData | None:
    """The files of a data set; None where the hub cannot be asked. ModelError where it has no such set, or one that is
    gated and not open to this user."""
    return _asked(repo, revision, "dataset")


def _asked(repo: str, revision: str, kind: Literal["model", "dataset"]) -> HubData | None:
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    called = "model" if kind == "model" else "data set"
    if constants.is_offline_mode():
        return None
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        ask = api.model_info if kind == "model" else api.dataset_info
        info = ask(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        files = tuple(
            HubFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else one.blob_id or "")
            for one in info.siblings or []
        )
        names = [one.name for one in files]
        index = next((name for name in _INDICES if name in names), next(iter(names), ""))
        if index:  # who may not have a gated one hears of it here
            url = hf_hub_url(repo, index, repo_type=kind, revision=revision, endpoint=constants.ENDPOINT)
            get_hf_file_metadata(url, timeout=_TIMEOUT)
    except GatedRepoError as error:
        hint = f"ask for access at {page}, then log in with `hf auth login`"
        raise ModelError(f"the {called} {repo} is gated, and not open to you", hint=hint) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        absent = isinstance(error, RepositoryNotFoundError)
        what = f"no {called} {repo}" if absent else f"no revision {revision} of {repo}"
        raise ModelError(f"the hub has {what}", hint="check the name; a folder is written as ./folder/name") from error
    except (unreachable(), OSError):
        return None
    return HubData(str(info.sha), files)


def loaded(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that are loaded."""
    if "model_index.json" in names:
        return wanted_files(list(names))
    return [name for name in names if "/" not in name and name.endswith((".safetensors", ".json", ".txt"))]


def fetch_index(repo: str, revision: str) -> None:
    """Make the hub's cache on this machine know the commit of a revision. ModelError where it cannot be fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    hint = f"fetch it where there is a network (`hf download {repo}`), or give a folder: ./models/name"
    if look_up(repo, revision) is None:  # a download would try for half a minute
        said = f"{repo}@{revision} is not on this machine, and the hub is not reachable"
        raise ModelError(said, hint=hint)
    try:
        try:
            hf_hub_download(repo, _INDICES[0], revision=revision, etag_timeout=_TIMEOUT)
        except EntryNotFoundError:
            hf_hub_download(repo, _INDICES[1], revision=revision, etag_timeout=_TIMEOUT)
    except (unreachable(), OSError, ValueError) as error:
        raise ModelError(f"{repo}@{revision} cannot be fetched ({first_line(error)})", hint=hint) from error
