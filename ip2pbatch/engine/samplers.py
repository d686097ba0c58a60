"""The samplers a recipe can name: diffusers' schedulers on the model's own noise schedule, and the noise they eat.

A seed means what it means in diffusers: one CPU generator an Edit draws the initial noise, then the ancestral noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ip2pbatch.engine.transfer import send
from ip2pbatch.errors import ModelError, UsageError
from ip2pbatch.plan.edits import Edit

# Name in a recipe → diffusers' class and what it is told beyond the model's configuration.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}

OWN = "model"
"""The sampler that a model's own files name, where no other one fits its noise."""

_OWN = ("EDMEulerScheduler",)

# What diffusers' schedulers answer to a configuration or a number of steps that is not for them.
_REFUSALS = (ValueError, NotImplementedError, TypeError, IndexError, ArithmeticError, RuntimeError, ImportError)
_PROBE = (1, 2, 2)


class Sampler:
    """One batch's walk from noise to latents: a diffusers scheduler with the generators of its Edits.

    Multistep schedulers remember their batch, so a Sampler serves one batch and is thrown away.
    """

    def __init__(self, scheduler: Any, seeds: Sequence[int], device: torch.device) -> None:
        self._scheduler = scheduler
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._takes_generator = "generator" in scheduler.step.__code__.co_varnames
        self._device = device
        # Euler's latents grow with the noise, and are scaled for the network; the others' are the network's own.
        self._keeps_signal = type(scheduler).__name__.startswith(("Euler", "EDM"))
        self.timesteps: Tensor = scheduler.timesteps

    def draw(self, shape: tuple[int, int, int]) -> Tensor:
        """The initial latents [n, *shape] in float32: each Edit's own noise times the schedule's first sigma."""
        noise = [torch.randn((1, *shape), generator=generator) for generator in self._generators]
        self._noise = send(torch.cat(noise), self._device)
        drawn: Tensor = self._noise * self._scheduler.init_noise_sigma
        return drawn

    def noised(self, clean: Tensor, step: int) -> Tensor:
        """x₀ `clean` [n, c, h, w] with the noise that was drawn, at the level of the latents before `step` (from 0).

        After the last one it is x₀ itself. Samplers that count in σ with the signal left as it is (Karras et al. 2022)
        have x₀ + σ·ε; all others √ᾱ·x₀ + √(1−ᾱ)·ε, where ᾱ = 1 / (1 + σ²) for those that count in σ.
        """
        if step >= len(self.timesteps):
            return clean
        alpha = self._signal(step)
        if self._keeps_signal:
            sigma: float = (1 / alpha - 1) ** 0.5
            return clean + sigma * self._noise
        signal: float = alpha**0.5
        noise: float = (1 - alpha) ** 0.5
        return signal * clean + noise * self._noise

    def scale(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The latents as the network wants to see them at `timestep`."""
        scaled: Tensor = self._scheduler.scale_model_input(latents, timestep)
        return scaled

    def clean(self, step: int, output: Tensor, seen: Tensor) -> Tensor:
        """x₀ as the network's `output` at `step` (from 0) has it, of latents `seen` as `scale` gives them.

        With ᾱ the share of signal, seen = √ᾱ·x₀ + √(1−ᾱ)·ε, and v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans and Ho 2022).
        """
        alpha = self._signal(step)
        signal: float = alpha**0.5
        noise: float = (1 - alpha) ** 0.5
        if self._scheduler.config.prediction_type == "v_prediction":
            return signal * seen - noise * output
        return (seen - noise * output) / signal

    def _signal(self, step: int) -> float:
        """ᾱ at `step`: from the noise level where the scheduler counts in those, else from its table by timestep."""
        if (levels := getattr(self._scheduler, "sigmas", None)) is not None:
            return 1 / (1 + float(levels[step]) ** 2)
        return float(self._scheduler.alphas_cumprod[int(self.timesteps[step])])

    def step(self, noise: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        """The latents one step on, each Edit's ancestral noise drawn from its own generator."""
        extra = {"generator": self._generators} if self._takes_generator else {}
        with _Unwaiting():
            after: Tensor = self._scheduler.step(noise, timestep, latents, return_dict=False, **extra)[0]
        return after


class _Unwaiting(TorchFunctionMode):
    """What a scheduler draws on the host and sends to a GPU goes there as `send` does it.

    From memory that is not pinned, a copy waits until the GPU has done all that it was asked for: once a step, with
    ancestral noise, so that it would have nothing to do while the next step is put together.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.to and len(args) == 2 and isinstance(args[1], torch.device) and args[0].is_cpu:
            return send(*args)
        return function(*args, **(kwargs or {}))


def make_sampler(
    name: str, config: Mapping[str, Any], steps: int, seeds: Sequence[int], device: torch.device
) -> Sampler:
    """The sampler `name` with `steps` steps on a model's scheduler configuration; UsageError where it cannot be."""
    import diffusers

    if name not in SAMPLERS and name != OWN:
        raise UsageError(f"there is no sampler {name}", hint=f"samplers are {', '.join(SAMPLERS)}")
    kind, extra = SAMPLERS[name] if name != OWN else (_own(config), {})
    schedule = getattr(diffusers, kind)
    # A configuration saved by one class holds keys that another does not know and would log about.
    known = set(inspect.signature(schedule.__init__).parameters) & set(config)
    try:
        scheduler = schedule.from_config({key: config[key] for key in known}, **extra)
    except _REFUSALS as error:
        raise _unsampled(name, str(error)) from error
    try:
        scheduler.set_timesteps(steps)
    except _REFUSALS as error:
        raise UsageError(f"{name} cannot take {steps} steps: {error}", hint="use fewer steps") from error
    return Sampler(scheduler, seeds, device)


def _own(config: Mapping[str, Any]) -> str:
    if (found := config.get("_class_name")) in _OWN:
        return str(found)
    raise UsageError(
        f"{found} is no sampler of its own that a model may bring", hint=f"samplers are {', '.join(SAMPLERS)}"
    )


def refuse_unsampled(config: Mapping[str, Any], edits: Sequence[Edit]) -> None:
    """Raises ModelError where a sampler of `edits` makes nothing finite on a model's schedule, UsageError where it does
    not take their steps: each is walked once, with a network that answers noise.
    """
    for name, steps in sorted({(edit.sampler, edit.steps) for edit in edits}):
        _walk(name, config, steps)


def _walk(name: str, config: Mapping[str, Any], steps: int) -> None:
    sampler = make_sampler(name, config, steps, [0], torch.device("cpu"))
    latents, noise = sampler.draw(_PROBE), torch.randn((1, *_PROBE), generator=torch.Generator().manual_seed(1))
    try:
        for timestep in sampler.timesteps:
            sampler.scale(latents, timestep)
            latents = sampler.step(noise, timestep, latents)
    except _REFUSALS as error:
        raise _unsampled(name, str(error)) from error
    if not latents.isfinite().all():
        raise _unsampled(name, f"after {steps} steps its numbers are not finite")


def _unsampled(name: str, why: str) -> ModelError:
    return ModelError(
        f"{name} cannot sample this model's noise schedule: {' '.join(why.split())}",
        hint="use another sampler or another model; the schedule is in the model's scheduler/scheduler_config.json",
    )
