"""The models that have short names, beside this machine: which are here, at which revision, and what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ip2pbatch.backends.room import WORKING, free_memory
from ip2pbatch.backends.weights import cached
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.plan.editors.short_names import SHORT_NAMES, short_name
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.run.machine import Memory


@dataclass(frozen=True, slots=True)
class Listed:
    """A short name with its model: `size` and `needs` in bytes, the second by how its parts lie on a GPU; `fits` says
    in words how they can here, and `revision` is the commit that is here, "" where none is.
    """

    name: str
    hub: str
    family: str
    licence: str
    commercial: bool
    size: int
    needs: dict[str, int]
    fits: str
    revision: str


def known_models() -> list[Listed]:
    """All of them. Asks torch for a GPU, where torch is installed, and the hub's cache; never the network."""
    gpu, main = gpu_memory(), free_memory()
    return [_listed(name, gpu, main) for name in SHORT_NAMES]


def _listed(name: str, gpu: int | None, main: int | None) -> Listed:
    known = SHORT_NAMES[name]
    family = FAMILIES[known.family]
    needs = {str(Memory.FULL): _bytes(known.size)}
    if family.call is not None:
        needs[str(Memory.OFFLOAD)] = _bytes(max(known.parts))
    path = cached(known.hub, None)
    return Listed(
        name, known.hub, family.called, known.licence, known.commercial, round(known.size * 1e9), needs,
        fits(needs, round(known.size * 1e9), gpu, main, moves=family.call is not None), path.name if path else "",
    )  # fmt: skip


def fits(needs: dict[str, int], size: int, gpu: int | None, main: int | None, *, moves: bool) -> str:
    """How a model's parts can lie on this machine, in words: by a GPU's bytes, or without one by those that are free of
    main memory.
    """
    if gpu is None:
        return _fits_cpu(size, main)
    how = next((how for how, needed in needs.items() if needed <= gpu), None)
    if how == Memory.FULL:
        return "fits on the GPU"
    if moves and (main is None or size <= main):
        return f"fits with --memory {how or Memory.SEQUENTIAL}"
    return f"does not fit: the GPU has {gpu / 1e9:.0f} GB"


def _fits_cpu(size: int, main: int | None) -> str:
    """A CPU computes in float32 unless it is told otherwise: twice the bytes."""
    if main is None or 2 * size <= main:
        return "fits on the CPU, slowly"
    if size <= main:
        return "fits on the CPU with --precision bf16, slowly"
    return f"does not fit: {main / 1e9:.0f} GB of memory are free"


def gpu_memory() -> int | None:
    """Bytes of the first accelerator; None where there is none, or no torch to ask."""
    try:
        from ip2pbatch.backends.pytorch import accelerators
    except ImportError:
        return None
    return accelerators.memory_of(accelerators.known(accelerators.default())) if accelerators.available() else None


def _bytes(billions: float) -> int:
    return round(billions * 1e9) + WORKING


def tell_licence(model: str, note: Callable[[str], None]) -> None:
    """Say of a model that may not be used to earn money that it is one, once a user."""
    known = short_name(model)
    if known is None or known.commercial:
        return
    told = Remembered("licences told")
    if told.get(known.hub) is None:
        note(f"{known.hub} is under the {known.licence}: read it before you use its pictures commercially")
        told.keep({known.hub: known.licence})
