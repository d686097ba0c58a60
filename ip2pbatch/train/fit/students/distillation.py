"""What a student learns from its teacher: one row for three (Meng et al. 2023), and few steps, by two objectives.

    consistency   from any point of a path the student says where the path ends, as it says it from the next point, to
                  which the guided teacher takes one step of DDIM (latent consistency, arXiv 2310.04378; its target
                  is the student itself as it is: arXiv 2310.14189)
    progressive   first the guided teacher's own answer at every timestep, then, halving by halving, one step of DDIM
                  for two of what the student was before (Salimans and Ho 2022, arXiv 2202.00512; Meng et al., 3.2)

With z_t = α·x + σ·ε, and α² + σ² = 1, the network may say ε, v = α·ε − σ·x, or x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from ip2pbatch.backends.pytorch.guidance_embedding import waves
from ip2pbatch.train.fit.average import Average

Objective = Literal["consistency", "progressive"]

_FLOOR = 0.1  # of the squared distance of a pair of scales from 1, by which its errors are divided
_BEND = 1e-3  # of the pseudo-Huber loss: below it a square, above it a distance


class Path:
    """α and σ of a noise schedule, and what a network's words say of x and ε there."""

    def __init__(self, schedule: DDPMScheduler) -> None:
        self.kind = schedule.config.prediction_type
        self.levels = int(schedule.config.num_train_timesteps)
        kept = schedule.alphas_cumprod.double()
        signal = torch.cat([kept, torch.ones(1, dtype=torch.float64)])  # [-1]: no noise is left
        self.alpha, self.sigma = signal.sqrt().float(), (1 - signal).clamp(min=0).sqrt().float()

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at timesteps [n], as [n, 1, 1, 1]; −1 is the end."""
        shape = (-1, 1, 1, 1)
        found = [table.to(timesteps.device)[timesteps].view(shape) for table in (self.alpha, self.sigma)]
        return found[0], found[1]

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of x and ε."""
        alpha, sigma = self.at(timesteps)
        return alpha * clean + sigma * noise

    def clean(self, said: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """x by what a network says at z_t."""
        alpha, sigma = self.at(timesteps)
        if self.kind == "v_prediction":
            return alpha * noisy - sigma * said
        return (noisy - sigma * said) / alpha if self.kind == "epsilon" else said

    def step(self, clean: Tensor, noisy: Tensor, timesteps: Tensor, after: Tensor) -> Tensor:
        """z at `after` by a step of DDIM (η = 0) from z_t with that x."""
        (alpha, sigma), (next_alpha, next_sigma) = self.at(timesteps), self.at(after)
        return next_alpha * clean + next_sigma * (noisy - alpha * clean) / sigma

    def grid(self, steps: int, device: torch.device) -> Tensor:
        """The timesteps of so many steps and the end [steps + 1], spaced from the noisy end ("trailing"), so that those
        of half the steps are among them.
        """
        places = torch.arange(steps, 0, -1, dtype=torch.float64) * self.levels / steps
        return torch.cat([places.round().long() - 1, torch.tensor([-1])]).to(device)

    def places(self, timesteps: Tensor, steps: int) -> Tensor:
        """For timesteps [n] of all levels, in which step of the grid, from 0, each is."""
        return ((self.levels - 1 - timesteps) * steps // self.levels).clamp(0, steps - 1)


class Forerunner:
    """The student as it was when a halving began, which the next half of the steps is learned from.

    It is no part of the task: it does not learn, is not sent between processes, and checkpoints have it of its own.
    """

    def __init__(self, student: UNet2DConditionModel, begins: Sequence[int]) -> None:
        self._student, self._begins = student, begins
        self.halving = 0
        self.unet: UNet2DConditionModel | None = None

    def at(self, step: int, average: Average) -> None:
        """Before each step: where a halving begins, the student's average as it is now."""
        now = sum(step >= begin for begin in self._begins)
        if now == self.halving:
            return
        with average.in_place():
            self._take(self._student.state_dict())
        self.halving = now

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        if self.unet is None:
            self.unet = deepcopy(self._student).eval().requires_grad_(False)
        self.unet.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"halving": self.halving, "weights": self.unet.state_dict() if self.unet else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was when the checkpoint was written."""
        self.halving = state["halving"]
        if state["weights"] is not None:
            self._take(state["weights"])


class Distillation(nn.Module):
    """Loss of one batch: how far the student is from what its objective asks.

    `halvings` are the steps of each halving, such as (8, 4): what is learned before the first is the guided teacher.
    `grid` is in how many steps `consistency` cuts a path.
    """

    def __init__(
        self, student: UNet2DConditionModel, teacher: UNet2DConditionModel, text_encoder: nn.Module | None,
        schedule: DDPMScheduler, null: Tensor, objective: Objective, grid: int, halvings: Sequence[int],
        forerunner: Forerunner,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet: nn.Module = student
        self.teacher: nn.Module = teacher.eval().requires_grad_(False)
        self.text_encoder = text_encoder.eval().requires_grad_(False) if text_encoder else None
        self.path, self.objective, self.steps, self.halvings = Path(schedule), objective, grid, halvings
        self.forerunner = forerunner
        self.null: Tensor
        self.register_buffer("null", null, persistent=False)

    def train(self, mode: bool = True) -> Distillation:
        """The teacher stays at work as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, latents: Tensor, image: Tensor, noise: Tensor, timesteps: Tensor, scales: Tensor,
        tokens: Tensor | None = None, text: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`latents`, `image`, `noise` [n, c, h, w], as the UNet knows them; `timesteps` [n]; `scales` [n, 2], s_T
        and s_I; the instructions' embeddings `text` [n, tokens, width], or their `tokens` [n, tokens].
        """
        with torch.no_grad():
            if text is None:
                assert self.text_encoder is not None, "tokens need an encoder"
                text = self.text_encoder(tokens).last_hidden_state
            cond = Conditioning(image, text, scales)
        return self._loss(latents, noise, timesteps, cond).mean()

    def _loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """Of each row [n], as a part of what its scales add to a row that is not guided (of scales of 1), which grows
        with their distance from 1: unweighed, the strong ones would drown the others.
        """
        added = (cond.scales - 1).square().sum(dim=1) + _FLOOR
        if self.objective == "consistency":
            return self._consistency(latents, noise, timesteps, cond) / added.sqrt()
        if self.forerunner.halving == 0:
            return self._guided_answer(latents, noise, timesteps, cond) / added
        steps = self.halvings[self.forerunner.halving - 1]
        return self._halving(latents, noise, timesteps, cond, steps) / added

    def _consistency(self, latents: Tensor, noise: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        grid = self.path.grid(self.steps, timesteps.device)
        place = self.path.places(timesteps, self.steps)
        now, after = grid[place], grid[place + 1]
        noisy = self.path.noised(latents, noise, now)
        with torch.no_grad():
            ahead = self.path.clean(self._guided(noisy, now, cond), noisy, now)
            arrived = self.path.step(ahead, noisy, now, after)
            later = after.clamp(min=0)
            goal = self.path.clean(self._student(arrived, later, cond), arrived, later)
            goal = torch.where((after < 0).view(-1, 1, 1, 1), ahead, goal)
        error = self.path.clean(self._student(noisy, now, cond), noisy, now) - goal
        return ((error.square() + _BEND**2).sqrt() - _BEND).mean(dim=(1, 2, 3))

    def _guided_answer(self, latents: Tensor, noise: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        noisy = self.path.noised(latents, noise, timesteps)
        with torch.no_grad():
            goal = self._guided(noisy, timesteps, cond)
        return (self._student(noisy, timesteps, cond) - goal).square().mean(dim=(1, 2, 3))

    def _halving(self, latents: Tensor, noise: Tensor, timesteps: Tensor, cond: Conditioning, steps: int) -> Tensor:
        """The x that one step of DDIM needs to arrive where two of the forerunner's do; errors in v, whatever the
        network says: of x over σ (Salimans and Ho, section 4, "SNR + 1").
        """
        fine = self.path.grid(2 * steps, timesteps.device)
        place = 2 * self.path.places(timesteps, steps)
        now, between, after = fine[place], fine[place + 1], fine[place + 2]
        noisy = self.path.noised(latents, noise, now)
        (alpha, sigma), (last_alpha, last_sigma) = self.path.at(now), self.path.at(after)
        with torch.no_grad():
            half = self.path.step(self._before(noisy, now, cond), noisy, now, between)
            arrived = self.path.step(self._before(half, between, cond), half, between, after)
            ratio = last_sigma / sigma
            goal = (arrived - ratio * noisy) / (last_alpha - ratio * alpha)
        error = self.path.clean(self._student(noisy, now, cond), noisy, now) - goal
        return (error / sigma).square().mean(dim=(1, 2, 3))

    def _before(self, noisy: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        assert self.forerunner.unet is not None, "a halving has begun"
        return self.path.clean(_answer(self.forerunner.unet, noisy, timesteps, cond), noisy, timesteps)

    def _student(self, noisy: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        return _answer(self.unet, noisy, timesteps, cond)

    def _guided(self, noisy: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The teacher's three rows, combined (Brooks et al. 2023, eq. 3)."""
        text_scale, image_scale = (cond.scales[:, place].view(-1, 1, 1, 1) for place in (0, 1))
        null = self.null.to(cond.text.dtype).expand_as(cond.text)
        rows = [(torch.zeros_like(cond.image), null), (cond.image, null), (cond.image, cond.text)]
        blank, seen, told = (
            self.teacher(torch.cat([noisy, image], dim=1), timesteps, text).sample.float() for image, text in rows
        )
        guided: Tensor = (1 - image_scale) * blank + (image_scale - text_scale) * seen + text_scale * told
        return guided


class Conditioning:
    """What n rows of a student are told beside noise and timestep: photo, instruction, scales [n, 2]."""

    def __init__(self, image: Tensor, text: Tensor, scales: Tensor) -> None:
        self.image, self.text, self.scales = image, text, scales


def _answer(unet: nn.Module, noisy: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
    seen = torch.cat([noisy, cond.image], dim=1)
    said: Tensor = unet(seen, timesteps, cond.text, timestep_cond=waves(cond.scales)).sample.float()
    return said
