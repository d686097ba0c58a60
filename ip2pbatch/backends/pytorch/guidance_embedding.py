"""Both guidance scales as numbers that a network reads, so that one row a step is guided (Meng et al. 2023, "On
Distillation of Guided Diffusion Models", section 3.1).

Each scale becomes sines and cosines, as a timestep does. The network adds a learned projection of them to what its time
embedding begins with: `time_cond_proj_dim` of diffusers' UNet2DConditionModel, handed in as `timestep_cond`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ip2pbatch.plan.edits import Guidance
from ip2pbatch.plan.rows import Row

WAVES = 32  # of each scale
WIDTH = 2 * 2 * WAVES
_FASTEST, _SLOWEST = 4.0, 0.01  # radians a unit of scale: 0.1 of a scale can be told, and 15 is not yet a turn of all


def embed(guidance: Sequence[Guidance], device: torch.device | str = "cpu") -> Tensor:
    """The pairs of scales of n rows → float32 [n, WIDTH]."""
    return waves(torch.tensor([(one.text, one.image) for one in guidance], dtype=torch.float32, device=device))


def told_of(rows: Sequence[Row] | None, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a UNet that reads scales is given besides; nothing where no row says any."""
    told = [row.scales for row in rows or () if row.scales is not None]
    return {"timestep_cond": embed(told, device).to(dtype)} if told else {}


def waves(scales: Tensor) -> Tensor:
    """(s_T, s_I) of n rows [n, 2] → sines and cosines [n, WIDTH] in float32, those of s_T first."""
    rates = torch.logspace(math.log10(_FASTEST), math.log10(_SLOWEST), WAVES, device=scales.device)
    turns = scales.float()[:, :, None] * rates
    return torch.cat([turns.sin(), turns.cos()], dim=-1).flatten(1)


def is_embedded(config: Any) -> bool:
    """Whether a UNet of this configuration reads scales as `waves` gives them."""
    return bool(config.get("time_cond_proj_dim") == WIDTH)


@torch.no_grad()
def with_scales(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a UNet that reads scales, and makes nothing of them yet: whatever they are, it answers as the UNet does
    to the same row.
    """
    said = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    student = UNet2DConditionModel.from_config({**said, "time_cond_proj_dim": WIDTH})
    student.load_state_dict(unet.state_dict(), strict=False)
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student
