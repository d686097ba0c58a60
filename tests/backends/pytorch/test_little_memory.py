"""An edit on a GPU of 4 GB: what is alive at once, counted on Stable Diffusion's networks without their content."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from faked_cuda import faked_cuda
from tiny_models import make_picture, save_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.bench.random_models import ARCHITECTURES
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source


class Meter(TorchDispatchMode):
    """The most bytes that tensors which were made in it have held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)}
        made = function(*args, **(kwargs or {}))
        for one in tree_iter(made):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given | self._alive:
                self._count(one.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def freed() -> None:
            self._alive.discard(key)
            self.now -= size

        weakref.finalize(storage, freed)


class OneKernel(TorchFunctionMode):
    """Attention as a GPU has it: one kernel that writes its output and nothing else."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


def most_bytes(call: Callable[[], object]) -> int:
    with torch.inference_mode(), OneKernel(), Meter() as meter:
        call()
    return meter.most


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def test_an_edit_at_512_px_leaves_room_for_cuda_itself() -> None:
    with faked_cuda(gibibytes=4e9 / 2**30):
        rows = pytorch.limits_of(torch.device("cuda:0"), 8).row_bucket((512, 512))
    architecture = ARCHITECTURES["sd15"]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**architecture.unet).half().eval()
        vae = AutoencoderKL(**architecture.vae).half().eval()
    worked = most_bytes(lambda: unet(empty(rows, 8, 64, 64), empty(), encoder_hidden_states=empty(rows, 77, 768)))
    assert worked > rows * 60 << 20  # the meter counts
    decoded = most_bytes(lambda: vae.decode(empty(1, 4, 64, 64)))
    again = most_bytes(lambda: vae.float().decode(empty(1, 4, 64, 64).float()))  # a picture that came out broken
    held, half = (sum(2 * one.numel() for one in network.parameters()) for network in (unet, vae))
    # The text encoder and the checker are away; what the UNet's recording holds stays while the autoencoder works.
    assert held + worked + max(half + decoded, again) < 3.2e9


def test_the_autoencoder_is_given_one_picture_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pytorch.load(ModelFolder(save_model(tmp_path / "kl", "kl"), "test", "", ""))
    seen: list[tuple[str, int]] = []
    for name in ("encode", "decode"):
        call = getattr(backend.parts.vae, name)

        def noting(x: Tensor, *rest: Any, name: str = name, call: Any = call, **how: Any) -> Any:
            seen.append((name, len(x)))
            return call(x, *rest, **how)

        monkeypatch.setattr(backend.parts.vae, name, noting)
    edits = [
        make_edit(f"p{seed}", "make it snow", Guidance(5, 1.5), seed, steps=2, sampler="euler_a", size=(64, 48))
        for seed in range(3)
    ]
    Editor(backend).edit(edits, [Source(pixels=make_picture(seed, (64, 48))) for seed in range(3)])
    assert seen == [("encode", 1)] * 3 + [("decode", 1)] * 3
