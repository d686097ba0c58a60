"""Samplers: a seed means what it means in diffusers, alone and in a batch, on every scheduler a recipe can name."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from ip2pbatch.engine.samplers import SAMPLERS, make_sampler, refuse_unsampled
from ip2pbatch.errors import ModelError, UsageError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit

SHAPE = (4, 6, 6)
CPU = torch.device("cpu")
STABLE_DIFFUSION = {
    "_class_name": "EulerAncestralDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "epsilon", "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
EMBEDDED = STABLE_DIFFUSION | {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip


def network(latents: Tensor, timestep: Tensor) -> Tensor:
    """Anything that hangs on the latents and the timestep."""
    return torch.tanh(latents) * 0.5 + latents.roll(1, -1) * 0.1 + float(timestep) / 5000


def walk(name: str, config: dict[str, object], seeds: list[int], steps: int = 6) -> Tensor:
    sampler = make_sampler(name, config, steps, seeds, CPU)
    latents = sampler.draw(SHAPE)
    for timestep in sampler.timesteps:
        latents = sampler.step(network(sampler.scale(latents, timestep), timestep), timestep, latents)
    return latents


@pytest.mark.parametrize("config", [STABLE_DIFFUSION, EMBEDDED], ids=["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_edit_s_noise_is_its_own_in_any_batch(name: str, config: dict[str, object]) -> None:
    batch = walk(name, config, [7, 1371, 7, 2])
    assert torch.isfinite(batch).all()
    assert torch.equal(batch[0], batch[2])
    assert not torch.allclose(batch[0], batch[1])
    for position, seed in enumerate([7, 1371, 7, 2]):
        assert torch.equal(batch[position], walk(name, config, [seed])[0])


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (kind, _) in SAMPLERS.items()])
def test_a_seed_gives_diffusers_own_walk(name: str, kind: str) -> None:
    schedule = getattr(diffusers, kind)
    scheduler = schedule.from_config(STABLE_DIFFUSION | SAMPLERS[name][1])
    scheduler.set_timesteps(6)
    generator = torch.Generator("cpu").manual_seed(1371)
    latents = torch.randn((1, *SHAPE), generator=generator) * scheduler.init_noise_sigma
    extra = {"generator": generator} if name not in ("unipc",) else {}
    for timestep in scheduler.timesteps:
        answer = network(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(answer, timestep, latents, **extra).prev_sample
    assert torch.equal(walk(name, STABLE_DIFFUSION, [1371]), latents)


def test_latents_are_not_clipped_to_pixels_range() -> None:
    assert walk("ddim", STABLE_DIFFUSION, [3]).abs().max() > 1


def test_the_model_s_own_schedule_is_kept() -> None:
    spaced = make_sampler("euler_a", EMBEDDED, 4, [1], CPU).timesteps
    assert spaced.tolist() == [999, 749, 499, 249]
    assert make_sampler("euler_a", STABLE_DIFFUSION, 4, [1], CPU).timesteps.tolist() == [999, 666, 333, 0]


def test_an_unknown_sampler_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="no sampler heun") as caught:
        make_sampler("heun", STABLE_DIFFUSION, 4, [1], CPU)
    assert "dpmpp_2m" in str(caught.value.hint)


def test_more_steps_than_a_sampler_takes_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="lcm cannot take 60 steps"):
        make_sampler("lcm", STABLE_DIFFUSION, 60, [1], CPU)


def ask(sampler: str, steps: int = 6) -> list[Edit]:
    guidance = Guidance(7.5, 1.5)
    return [make_edit("photo", "make it snow", guidance, 1, steps=steps, sampler=sampler, size=(64, 64))]


@pytest.mark.parametrize("config", [STABLE_DIFFUSION, EMBEDDED], ids=["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_that_can_be_sampled_is_let_through(name: str, config: dict[str, object]) -> None:
    refuse_unsampled(config, ask(name))


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("euler_a", {"prediction_type": "sample"}, "prediction_type not implemented yet: sample"),
        ("euler", {"prediction_type": "noise"}, "prediction_type given as noise must be one of"),
        ("dpmpp_2m", {"beta_schedule": "sigmoid"}, "sigmoid is not implemented for"),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "are not finite"),
        ("euler_a", {"timestep_spacing": "sideways"}, "cannot take 6 steps"),
        ("unipc", {"num_train_timesteps": 0}, "cannot"),
    ],
)
def test_a_schedule_that_cannot_be_sampled_is_refused_before_anything_is_made(
    name: str, change: dict[str, object], reason: str
) -> None:
    with pytest.raises((ModelError, UsageError), match=reason) as caught:
        refuse_unsampled(STABLE_DIFFUSION | change, [*ask("lcm"), *ask(name)] if name == "ddim" else ask(name))
    assert caught.value.hint


@pytest.mark.parametrize("config", [STABLE_DIFFUSION, EMBEDDED], ids=["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m", "unipc"])
def test_a_sampler_whose_network_knows_the_picture_walks_along_that_picture_noised(
    name: str, config: dict[str, object]
) -> None:
    """Which is what it is blended with: at the level that each step ends at, and clean in the end."""
    sampler = make_sampler(name, config, 8, [7], CPU)
    noise = sampler.draw(SHAPE) / sampler._scheduler.init_noise_sigma
    clean = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(3))
    latents = sampler.noised(clean, 0)
    for step, timestep in enumerate(sampler.timesteps):
        signal = sampler._signal(step)
        answer = noise if config is STABLE_DIFFUSION else signal**0.5 * noise - (1 - signal) ** 0.5 * clean
        latents = sampler.step(answer, timestep, latents)
        level = sampler.noised(clean, step + 1)
        least = 0.06 if name == "ddim" and step == 7 else 1e-2  # DDIM ends with the model's least noise
        assert (latents - level).abs().max() < least * (1 + float(level.abs().max()))
    assert torch.equal(level, clean)


@pytest.mark.parametrize("name", ["euler_a", "lcm"])
def test_a_picture_is_noised_to_the_level_of_a_sampler_that_draws_noise_on_the_way(name: str) -> None:
    sampler = make_sampler(name, STABLE_DIFFUSION, 8, [7], CPU)
    latents = sampler.draw((4, 64, 64))
    clean = torch.full_like(latents, 2.0)
    for step, timestep in enumerate(sampler.timesteps[:-1]):
        known = sampler.noised(clean, step)
        signal = sampler._signal(step)
        noise = (known - (1 if name == "euler_a" else signal**0.5) * clean) / (
            (1 / signal - 1) ** 0.5 if name == "euler_a" else (1 - signal) ** 0.5
        )
        after, level = sampler.step(noise, timestep, known), sampler.noised(clean, step + 1)
        assert abs(float(after.mean() - level.mean())) < 0.06 * float(after.std() + 1)
        assert float(after.std() / level.std()) == pytest.approx(1, abs=0.04)
