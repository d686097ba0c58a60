"""`clip_image`, the number beside a cell: the cosine of CLIP's vectors of photo and picture, as in the paper's curve.

The model is ViT-L/14 in the hub's cache: fetched when a recipe first asks for it, kept while the process lives.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.backends.installed import refuse_without
from ip2pbatch.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ip2pbatch.measures.clip import Clip

_MODEL = "openai/clip-vit-large-patch14"  # as in measures.clip, whose import brings torch
_NEEDED = ("config.json", "model.safetensors", "tokenizer_config.json")
_FILES = (*_NEEDED, "tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_HINT = (
    f"fetch it with `hf download {_MODEL} {' '.join(_FILES)}` where there is a network, or leave clip_image out of "
    "sheet.metrics"
)


def ready(*, fetch: bool) -> None:
    """Raises ModelError where the model is not in the cache and may not be fetched, or cannot, MissingError without
    torch.
    """
    refuse_without("torch", "transformers")
    if not _is_whole(_cached()):
        if not fetch:
            raise ModelError(f"{_MODEL} is not in the cache", hint=_HINT)
        _fetch()


def clip_image(source: NDArray[np.uint8], edited: NDArray[np.uint8]) -> float:
    """The cosine of the vectors of two uint8 pictures [h, w, 3] of one size, −1 to 1. Raises ModelError."""
    return _loaded().of(source, edited)


class _OnClip:
    """A CLIP model that keeps the vector of the last photo: a photo's edits come one after another."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._last: tuple[bytes, torch.Tensor] | None = None

    def of(self, source: NDArray[np.uint8], edited: NDArray[np.uint8]) -> float:
        data = source.tobytes()
        if self._last is None or self._last[0] != data:
            self._last = data, self._vector(source)
        return float((self._last[1] * self._vector(edited)).sum())

    def _vector(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        from ip2pbatch.measures.clip import to_unit_range

        return self._clip.images(to_unit_range([pixels]))[0]


@cache
def _loaded() -> _OnClip:
    from ip2pbatch.measures.clip import Clip

    return _OnClip(Clip.load(str(_cached())))


def _cached() -> Path | None:
    """The model's folder in the hub's cache, as far as it was fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(_MODEL, local_files_only=True))
    except (OSError, ValueError):
        return None


def _is_whole(folder: Path | None) -> bool:
    return folder is not None and all((folder / name).is_file() for name in _NEEDED)


def _fetch() -> None:
    from huggingface_hub import constants, snapshot_download

    from ip2pbatch.backends.weights import first_line, unreachable

    if constants.is_offline_mode():
        raise ModelError(f"{_MODEL} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", hint=_HINT)
    try:
        snapshot_download(_MODEL, allow_patterns=list(_FILES), etag_timeout=5.0)
    except (unreachable(), OSError, ValueError) as error:
        raise ModelError(
            f"{_MODEL} is not in the cache, and the hub is not reachable ({first_line(error)})", hint=_HINT
        ) from error
    if not _is_whole(_cached()):
        raise ModelError(f"{_MODEL} lacks files in the hub's cache", hint=_HINT)
