"""UNets of every configuration that diffusers can build: a step is exact on it or left out, and says why."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor

from ip2pbatch.backends.pytorch import steps
from ip2pbatch.backends.pytorch.steps.transformers import keep_tokens_in_place
from ip2pbatch.plan.rows import Row

WIDTH, TOKENS = 16, 5
WORDS = ("", "make it snow", "turn the sky red")
ROWS = tuple(Row(e, i, t) for e in (0, 1) for i, t in ((None, None), (e, None), (e, WORDS[e + 1])))
PLAIN: dict[str, Any] = {
    "in_channels": 8, "out_channels": 4, "sample_size": 8, "cross_attention_dim": WIDTH, "norm_num_groups": 4,
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "addition_embed_type_num_heads": 4,
}  # fmt: skip

# Every key that changes the arithmetic of a UNet which takes latents, a timestep and a text, with values beside its
# default. Lists are of two blocks.
KEYS: dict[str, tuple[Any, ...]] = {
    "only_cross_attention": (True, (True, False), (False, True)),
    "attention_head_dim": (2, 8, (2, 4)),
    "layers_per_block": (2, (1, 2)),
    "transformer_layers_per_block": (2, (2, 1)),
    "use_linear_projection": (True,),
    "upcast_attention": (True,),
    "resnet_time_scale_shift": ("scale_shift",),
    "resnet_skip_time_act": (True,),
    "resnet_out_scale_factor": (2.0,),
    "mid_block_type": (None, "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"),
    "mid_block_only_cross_attention": (True,),
    "mid_block_scale_factor": (2.0,),
    "cross_attention_norm": ("layer_norm", "group_norm"),
    "act_fn": ("gelu", "relu", "mish", "swish"),
    "norm_num_groups": (2, 8),
    "norm_eps": (1e-3,),
    "time_embedding_type": ("fourier",),
    "time_embedding_act_fn": ("silu", "gelu"),
    "timestep_post_act": ("silu",),
    "time_cond_proj_dim": (7,),
    "time_embedding_dim": (64,),
    "flip_sin_to_cos": (False,),
    "freq_shift": (1,),
    "addition_embed_type": ("text",),
    "center_input_sample": (True,),
    "conv_in_kernel": (1, 5),
    "conv_out_kernel": (1, 5),
    "downsample_padding": (0,),
    "attention_type": ("gated",),
    "dropout": (0.1,),
    "block_out_channels": ((16, 16), (8, 24)),
    "down_block_types": (
        ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), ("DownBlock2D", "AttnDownBlock2D"),
        ("AttnDownBlock2D", "DownBlock2D"),
    ),
}  # fmt: skip
ALONE = [(key, value) for key, values in KEYS.items() for value in values]

# The cases of each step that a CPU cannot take whole: the parts of it that are torch's own operations.
GPU_PARTS: dict[str, Callable[[steps.Site], None]] = {
    "plain-tokens": lambda site: keep_tokens_in_place(site.unet),
}


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(changes: dict[str, Any]) -> UNet2DConditionModel:
    """A random UNet whose norms and biases are no ones and zeros."""
    config = PLAIN | changes
    if "down_block_types" in changes:
        names = (name.replace("Down", "Up") for name in config["down_block_types"])
        config["up_block_types"] = tuple(reversed([*names]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
        for parameter in unet.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return unet


def draw(size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor]:
    """Latents beside images [n, 8, h, w] and texts [n, tokens, width] of ROWS, alike where the rows say so."""

    def noise(seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    latents = torch.stack([noise(row.latent_of, 4, *size) for row in ROWS])
    images = [noise(200 + (row.image_of or 0), 4, *size) * (row.image_of is not None) for row in ROWS]
    texts = torch.stack([noise(100 + WORDS.index(row.text or ""), TOKENS, WIDTH) for row in ROWS])
    return torch.cat([latents, torch.stack(images)], dim=1), texts


def site_of(unet: UNet2DConditionModel, vae: AutoencoderTiny) -> steps.Site:
    networks = {"unet": unet, "vae": copy.deepcopy(vae), "text_encoder": torch.nn.Linear(1, 1)}
    return steps.Site(networks, torch.device("cpu"), torch.float32)


@torch.inference_mode()
def check(changes: dict[str, Any], vae: AutoencoderTiny, alone: tuple[str, ...]) -> set[str]:
    """The steps that were in; fails where the network is not its plain self with all of them or one of `alone`."""
    plain, moment = build(changes), torch.tensor(321.0)
    sample, text = draw()
    wanted = plain(sample, moment, encoder_hidden_states=text, return_dict=False)[0]
    everything = tuple(step.name for step in steps.choose(None))
    applied: set[str] = set()
    for chosen in (everything, *((name,) for name in alone)):
        site = site_of(copy.deepcopy(plain), vae)
        for name in chosen:
            if name in alone and name in GPU_PARTS:
                GPU_PARTS[name](site)
        steps.apply(steps.choose(chosen), site)
        assert all(site.refused.values())
        if site.staged is None:
            found = site.unet(sample, moment, encoder_hidden_states=text, return_dict=False)[0]
        else:
            found = site.staged(sample, moment, text, ROWS)
        error = float((found - wanted).abs().max() / wanted.abs().max())
        assert error <= 5e-5, f"{changes}: {', '.join(site.applied)}: {error}"
        applied |= {*site.applied}
    return applied


@pytest.mark.parametrize(("key", "value"), ALONE, ids=lambda part: str(part))
def test_a_network_with_one_unusual_key_is_itself_with_every_step(key: str, value: Any, vae: AutoencoderTiny) -> None:
    check({key: value}, vae, ("plain-tokens",))


@pytest.mark.parametrize("seed", range(24))
def test_a_network_of_several_unusual_keys_is_itself_with_every_step(seed: int, vae: AutoencoderTiny) -> None:
    chance = random.Random(seed)
    keys = chance.sample([key for key in KEYS if key not in ("block_out_channels", "norm_num_groups")], 4)
    changes = {key: chance.choice(KEYS[key]) for key in keys}
    alone = chance.sample(["text-memory", "time-table", "shared-head", "lean-blocks", "plain-tokens"], 2)
    check(changes, vae, tuple(alone))


def test_the_plain_network_has_every_step_that_is_for_a_cpu(vae: AutoencoderTiny) -> None:
    wanted = {"rowwise", "packed-convolutions", "lean-blocks", "split-upsampling"}
    assert wanted | {"text-memory", "time-table", "shared-head"} == check({}, vae, ())
