"""What a recipe may choose from tables: samplers, formats and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from ip2pbatch.plan.formats import written
from ip2pbatch.plan.metrics import offered
from ip2pbatch.plan.written.yaml_source import Mistake

if TYPE_CHECKING:
    OutputFormat: TypeAlias = str
    _Offered: TypeAlias = str
else:  # a checker cannot follow a table
    OutputFormat = Literal[("same", *written())]
    _Offered = Literal[offered()]


def _metric(value: Any) -> Any:
    if value == "clip_direction":
        why = "clip_direction compares an edit with a caption of before and one of after, which instructions lack"
        raise Mistake(why, hint="clip_image says how alike photo and picture are")
    return value


Sampler = Literal["euler_a", "euler", "ddim", "dpmpp_2m", "unipc", "lcm", "model"]
Metric = Annotated[_Offered, BeforeValidator(_metric)]
