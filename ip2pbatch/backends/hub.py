"""What the hub says of a model before it is fetched: whether there is one, who may have it, its commit and its bytes.

Only headers and listings cross the network. Where the hub is not reachable, or HF_HUB_OFFLINE is set, nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.is_offline_mode():
        return None
    page = f"{constants.ENDPOINT}/{repo}"
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            repo, revision=revision, files_metadata=True, timeout=_TIMEOUT
        )
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or []}
        index = next((name for name in _INDICES if name in sizes), next(iter(sizes), ""))
        if index:  # who may not have a gated model hears of it here
            url = hf_hub_url(repo, index, revision=revision, endpoint=constants.ENDPOINT)
            get_hf_file_metadata(url, timeout=_TIMEOUT)
    except GatedRepoError as error:
        hint = f"ask for access at {page}, then log in with `hf auth login`"
        raise ModelError(f"the model {repo} is gated, and not open to you", hint=hint) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"no model {repo}" if isinstance(error, RepositoryNotFoundError) else f"no revision {revision} of {repo}"
        raise ModelError(f"the hub has {what}", hint="check the name; a folder is written as ./models/name") from error
    except (unreachable(), OSError):
        return None
    return HubModel(str(info.sha), sum(sizes[name] for name in loaded(list(sizes))))


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
