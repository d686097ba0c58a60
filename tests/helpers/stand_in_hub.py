"""A cache of a hub that cannot be reached, with a tiny model of the real classes under every name that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Save = Callable[[Path], object]


def fill_hub(cache: Path, models: Mapping[str, Save]) -> dict[str, str]:
    """Save each model at its place in the `cache`; the environment in which a command finds them there and asks no one.

    A test whose commands run in its own process sets `huggingface_hub.constants` as well: they are read once.
    """
    for name, save in models.items():
        folder = cache / f"models--{name.replace('/', '--')}"
        save(folder / "snapshots" / COMMIT)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
    return {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
