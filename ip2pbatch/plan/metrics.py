"""The numbers beside a cell of sheets and report: one table. Adding one is a function and a line.

METRICS["psnr"] = Metric("psnr", "PSNR", "ip2pbatch.pictures.likeness:psnr", "the peak signal over the change, in dB")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ip2pbatch.plan.named import named


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of one picture. Functions are named as "module:function" and imported when they are first needed.

    `caption` is what sheets and report call it, `meaning` what the report says of it after "is"; without a caption it
    is for verdicts alone. `measure(source, edited) -> float` is of two uint8 pictures [h, w, 3] of one size; without it
    the number comes with the delivery. `always`: measured as a picture is made; else where a recipe asks for it.
    `ready(fetch=…)` raises MissingError or ModelError where it cannot be measured here, after fetching what it needs
    if it may.
    """

    key: str
    caption: str
    measure: str
    meaning: str = ""
    always: bool = False
    ready: str = ""

    @property
    def offered(self) -> bool:
        """Whether a recipe may ask for it."""
        return bool(self.caption and self.measure)

    def check(self, *, fetch: bool) -> None:
        """Raises MissingError or ModelError where it cannot be measured on this machine."""
        if self.ready:
            named(self.ready)(fetch=fetch)

    def of(self, source: Any, edited: Any) -> float:
        """The number of one picture beside its photo."""
        return float(named(self.measure)(source, edited))


_LIKENESS = "ip2pbatch.pictures.likeness"
METRICS: dict[str, Metric] = {
    "l1": Metric("l1", "L1", f"{_LIKENESS}:l1", "the mean change of a pixel (0: none)", always=True),
    "ssim": Metric("ssim", "SSIM", f"{_LIKENESS}:ssim", "the likeness to the photo (1: equal)", always=True),
    "changed": Metric("changed", "", f"{_LIKENESS}:changed", always=True),
    "structure": Metric("structure", "", f"{_LIKENESS}:structure", always=True),
    "clip_image": Metric(
        "clip_image", "CLIP-I", "ip2pbatch.measures.clip_image:clip_image",
        "CLIP's likeness of what both show (1: equal)", ready="ip2pbatch.measures.clip_image:ready",
    ),
    "detail": Metric(
        "detail", "Detail kept", "", "the share of the photo's own fine detail in the delivered file (1: all of it; "
        "near 0 the edit repainted the photo)",
    ),
}  # fmt: skip


def captions() -> dict[str, str]:
    """What is shown of a cell, in the table's order: {key: caption}."""
    return {one.key: one.caption for one in METRICS.values() if one.caption}


def offered() -> tuple[str, ...]:
    """What a recipe may ask for."""
    return tuple(one.key for one in METRICS.values() if one.offered)


def named_in(wanted: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of a recipe's `sheet: {metrics: […]}`, each once."""
    return tuple(METRICS[key] for key in dict.fromkeys(wanted))
