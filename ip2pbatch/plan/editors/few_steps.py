"""LoRAs that were made for few steps, by their files' names: what counts beside one where a recipe names nothing.

The numbers are their authors'. Another one is a line here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch.plan.families import FAMILIES, Family

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Edit


@dataclass(frozen=True, slots=True)
class FewSteps:
    """One of them: its name, the key of the family that it is made for, and a pattern of its files' names, in which
    `steps` may be the number that a file is made for.

    `defaults` are in the place of its model's; `most` is up to where steps and text scale may be asked for otherwise.
    `scale` is how much of it is added where nothing is said. `schedule` is what it changes in the model's noise
    schedule.
    """

    called: str
    family: str
    files: str
    defaults: Mapping[str, Any]
    most: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def suits(self, edit: Edit) -> bool:
        """Whether an Edit is asked for as it is made for."""
        steps, text = self.defaults["steps"], self.defaults["text"]
        sampler = self.defaults.get("sampler", edit.sampler)
        within = steps <= edit.steps <= self.most.get("steps", steps)
        return bool(sampler == edit.sampler and within and edit.guidance.text <= self.most.get("text", text))

    def __str__(self) -> str:
        """What it is made for, in words."""
        sampler = f"sampler {self.defaults['sampler']}, " if "sampler" in self.defaults else ""
        steps = f"{self.defaults['steps']} to {self.most['steps']:g}" if self.most else str(self.defaults["steps"])
        text = f"up to {self.most['text']:g}" if self.most else f"{self.defaults['text']:g}"
        return f"{sampler}{steps} steps and a text scale of {text}"


# A text and an image scale of 1 are no guidance: the network's answer to instruction and photo as it is.
_UNGUIDED = {"text": 1.0, "image": 1.0}
_TRAILING = {"timestep_spacing": "trailing"}
_SHIFTED = {
    "base_shift": math.log(3), "max_shift": math.log(3), "shift": 1.0, "shift_terminal": None,
    "use_dynamic_shifting": True, "time_shift_type": "exponential",
}  # fmt: skip
_LCM = {"steps": 4, "text": 1.5, "sampler": "lcm"}

FEW_STEPS: tuple[FewSteps, ...] = (
    FewSteps("LCM-LoRA", "instruct_pix2pix", r"lcm[-_]?lora", _LCM, {"steps": 8, "text": 2.0}),
    FewSteps("LCM-LoRA", "sdxl", r"lcm[-_]?lora", _LCM, {"steps": 8, "text": 2.0}),
    FewSteps(
        "Hyper-SD", "instruct_pix2pix", r"hyper-sd15-(?P<steps>[248])steps-lora", _UNGUIDED | {"sampler": "ddim"},
        schedule=_TRAILING,
    ),
    FewSteps(
        "Hyper-SD", "sdxl", r"hyper-sdxl-(?P<steps>[248])steps-lora", _UNGUIDED | {"sampler": "ddim"},
        schedule=_TRAILING,
    ),
    FewSteps(
        "SDXL-Lightning", "sdxl", r"sdxl_lightning_(?P<steps>[248])step_lora", _UNGUIDED | {"sampler": "euler"},
        schedule=_TRAILING,
    ),
    FewSteps("Hyper-SD", "kontext", r"hyper-flux\.1-dev-(?P<steps>8|16)steps-lora", {"text": 3.5}, scale=0.125),
    FewSteps(
        "Qwen-Image-Lightning", "qwen_edit", r"qwen-image-(edit-)?(\d{4}-)?lightning-(?P<steps>[48])steps",
        {"text": 1.0}, schedule=_SHIFTED,
    ),
)  # fmt: skip

_COMMON = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # names that say nothing of a LoRA
_ABOVE = 3  # folders above such a file that may say it: a hub's cache has two between


def made_for(paths: Iterable[str], family: Family) -> FewSteps | None:
    """What is known of the first of these LoRAs that is for few steps of a family, its own steps among the defaults."""
    for path in paths:
        for known, found in _known(path):
            if FAMILIES[known.family] is family:
                steps = found.groupdict().get("steps")
                return replace(known, defaults={**known.defaults, "steps": int(steps)}) if steps else known
    return None


def usual_scale(path: str) -> float:
    """How much of a LoRA is added where nothing is said."""
    return next((known.scale for known, _ in _known(path)), 1.0)


def unlike(paths: Iterable[str], family: Family, edits: Sequence[Edit]) -> Iterator[str]:
    """What is told of a LoRA for few steps where an Edit asks for something else."""
    for path in paths:
        if (known := made_for([path], family)) is None:
            continue
        if edit := next((edit for edit in edits if not known.suits(edit)), None):
            sampler = f"{edit.sampler}, " if "sampler" in known.defaults else ""
            asks = f"{sampler}{edit.steps} steps and {edit.guidance.text:g}"
            yield f"{Path(path).name} is made for {known}: this asks for {asks}"


def _known(path: str) -> Iterator[tuple[FewSteps, re.Match[str]]]:
    parts = Path(path).parts
    said = "/".join(parts[-1 - _ABOVE :]) if parts and parts[-1] in _COMMON else Path(path).name
    for known in FEW_STEPS:
        if found := re.search(known.files, said, re.IGNORECASE):
            yield known, found
