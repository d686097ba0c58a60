"""Short names for models of the hub: `model: klein`. Of which commit one is, the hub says when it is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ShortName:
    """A model of the hub: its id, its family's key in plan/families.py, its licence, and whether that lets people earn
    money with it. `parts` are the 10⁹ bytes of its networks in half precision, the largest first: about what is
    fetched, and what a device holds of them. `otherwise` are the defaults in which it differs from its family's.
    """

    hub: str
    family: str
    licence: str
    commercial: bool
    parts: tuple[float, ...]
    otherwise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """10⁹ bytes of all of its networks."""
        return sum(self.parts)


_APACHE = "Apache-2.0"
_FLUX = "FLUX Non-Commercial License"
_FLUX_DEV = "FLUX.1 [dev] Non-Commercial License"

SHORT_NAMES: dict[str, ShortName] = {
    "klein": ShortName("black-forest-labs/FLUX.2-klein-4B", "klein", _APACHE, True, (8.0, 7.8, 0.2)),
    "klein-base": ShortName("black-forest-labs/FLUX.2-klein-base-4B", "klein_base", _APACHE, True, (8.0, 7.8, 0.2)),
    "klein-9b": ShortName("black-forest-labs/FLUX.2-klein-9B", "klein", _FLUX, False, (18.2, 16.4, 0.2)),
    "kontext": ShortName(
        "black-forest-labs/FLUX.1-Kontext-dev", "kontext", _FLUX_DEV, False, (23.8, 9.5, 0.2, 0.2)
    ),
    "qwen-edit": ShortName("Qwen/Qwen-Image-Edit-2511", "qwen_edit", _APACHE, True, (40.9, 16.6, 0.3)),
    "longcat": ShortName("meituan-longcat/LongCat-Image-Edit", "longcat", _APACHE, True, (16.6, 12.5, 0.2)),
    "longcat-turbo": ShortName(
        "meituan-longcat/LongCat-Image-Edit-Turbo", "longcat", _APACHE, True, (16.6, 12.5, 0.2),
        {"steps": 8, "text": 1.0},
    ),
    "ip2p": ShortName("timbrooks/instruct-pix2pix", "instruct_pix2pix", "MIT", True, (1.7, 0.3, 0.2)),
    "sdxl-ip2p": ShortName("diffusers/sdxl-instructpix2pix-768", "sdxl", "OpenRAIL++", True, (5.1, 1.4, 0.3, 0.2)),
}  # fmt: skip


def short_name(model: str) -> ShortName | None:
    """What is known of a model by its short name or its id, with or without @revision; None of others."""
    name = model.partition("@")[0]
    by_id = {known.hub: known for known in SHORT_NAMES.values()}
    return SHORT_NAMES.get(name) or by_id.get(name)
