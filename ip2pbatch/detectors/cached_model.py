"""The segmentation model on this machine: a folder, or what the hub's cache has. Loads and fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path

from ip2pbatch.backends.weights import file_digests
from ip2pbatch.disk.digests import digest_of
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import SEGMENTER, hub_id

_NEEDED = ("config.json", "model.safetensors", "tokenizer_config.json")
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_COMMIT = re.compile("[0-9a-f]{40}")


def identity(model: str) -> str:
    """What a key says of the model: of the hub's its name and commit, of a folder the digest of its files.

    A name with a whole commit is known without the model. Raises ModelError where it is not on this machine.
    """
    found = hub_id(model or SEGMENTER)
    if found is None or (model and Path(model).is_dir()):
        return f"clipseg {digest_of(digests(folder_of(model)))[:16]}"
    repo, revision = found
    is_known = revision is not None and _COMMIT.fullmatch(revision)
    return f"clipseg {repo}@{revision if is_known else folder_of(model).name}"


def folder_of(model: str) -> Path:
    """Where it lies. Raises ModelError where it is not whole, or no name."""
    model = model or SEGMENTER
    folder, found = Path(model), hub_id(model)
    if not folder.is_dir():
        if found is None:
            raise ModelError(
                f"there is no model folder {model}", hint=f"give a folder, or a hub id such as {SEGMENTER}"
            )
        cached = _cached(*found)
        if cached is None:
            raise ModelError(f"{model} is not on this machine", hint=_how_to_get(model))
        folder = cached
    lacking = [name for name in _NEEDED if not (folder / name).is_file()]
    if lacking:
        raise ModelError(f"{model} lacks {', '.join(lacking)}", hint=_how_to_get(model))
    return folder


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file that is loaded. Raises ModelError where the hub's cache tells that one is damaged."""
    return file_digests(folder, tuple(name for name in (*_NEEDED, *_VOCABULARY) if (folder / name).is_file()))


def _cached(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _how_to_get(model: str) -> str:
    found = hub_id(model)
    if found is None or Path(model).is_dir():
        return f"it is a folder as transformers saves one of CLIPSeg, with {', '.join(_NEEDED)}"
    repo, revision = found
    at = f" --revision {revision}" if revision else ""
    return f"fetch it with `hf download {repo}{at}` where there is a network, or name a folder with `model`"
