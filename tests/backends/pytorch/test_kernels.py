"""The GPU's kernels on a CPU, by Triton's interpreter: their arithmetic, at shapes that fill no tile.

The interpreter is chosen when Triton is first imported, so the kernels run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install --no-deps triton"
)

_CASES = """
import torch
from torch import nn
from torch.nn import functional
from ip2pbatch.backends.pytorch.steps import kernels

torch.manual_seed(0)


def near(found, plain, exact, name, size=0.0):
    own, torch_s = (float((one.double() - exact).abs().max()) for one in (found, plain))
    rounding = torch.finfo(torch.float32).eps * size + torch.finfo(found.dtype).eps * float(exact.abs().max())
    assert own <= 1.5 * torch_s + 2 * rounding, (name, own, torch_s)


for channels, groups, height, width, dtype in (
    (320, 32, 8, 8, torch.float16), (96, 32, 9, 7, torch.float32), (64, 8, 8, 8, torch.bfloat16),
    (40, 8, 5, 13, torch.float32), (16, 4, 72, 70, torch.float32),
):
    norm = nn.GroupNorm(groups, channels).requires_grad_(False)
    norm.weight.normal_(1, 0.2)
    norm.bias.normal_(0, 0.3)
    norm = norm.to(dtype)
    exact = nn.GroupNorm(groups, channels).double().requires_grad_(False)
    exact.load_state_dict({name: value.double() for name, value in norm.state_dict().items()})
    x = (torch.randn(2, channels, height, width) * 3 + 20 * torch.randn(channels)[:, None, None]).to(dtype)
    added, scale, shift = (torch.randn(2, channels).to(dtype) for _ in range(3))
    wide = [one[:, :, None, None] for one in (added, scale, shift)]
    for silu in (False, True):
        for what in ("plain", "added", "modulated"):
            given = {"added": added if what != "plain" else None}
            given["modulation"] = (scale, shift) if what == "modulated" else None
            found = kernels.group_norm(x, groups, norm.weight, norm.bias, norm.eps, silu=silu, **given)
            assert found.is_contiguous(memory_format=torch.channels_last)
            outcomes = []
            for layer, kind in ((norm, dtype), (exact, torch.float64)):
                value = layer(x.to(kind) if what == "plain" else x.to(kind) + wide[0].to(kind))
                if what == "modulated":
                    value = value * (1 + wide[1].to(kind)) + wide[2].to(kind)
                outcomes.append(functional.silu(value) if silu else value)
            near(found, *outcomes, (channels, dtype, silu, what), float(x.abs().max()))
    other, bias = torch.randn_like(x), torch.randn(channels).to(dtype)
    for sums in ((other, bias), (None, bias), (other, None)):
        inside = x.to(memory_format=torch.channels_last, copy=True)
        plain, exact_sum = x.clone(), x.double()
        for term in (one if one is None or one.ndim == 4 else one[:, None, None] for one in sums):
            plain, exact_sum = (plain, exact_sum) if term is None else (plain + term, exact_sum + term.double())
        found = kernels.add_into(inside, *sums)
        assert found.data_ptr() == inside.data_ptr()
        near(found, plain, exact_sum, ("sum", dtype))
tokens = torch.randn(2, 5, 2 * 1100)
value, gate = tokens.chunk(2, -1)
near(kernels.geglu(tokens), value * functional.gelu(gate), value.double() * functional.gelu(gate.double()), "gate")
"""

_NETWORKS = """
import sys
import torch
from pathlib import Path
sys.path[:0] = ["tests/backends/pytorch", "tests/helpers"]
from faked_cuda import faked_cuda
from test_steps import THREES, TWOS, load as on_cpu, predict
from tiny_models import save_model
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import ModelFolder

for kind, rows in (("kl", THREES), ("dc", TWOS)):
    folder = save_model(Path(sys.argv[1]) / kind, kind)
    plain = on_cpu(folder, [])
    wanted = ["channels-last", "plain-tokens", "fused-blocks", "text-memory", "time-table", "shared-head"]
    with faked_cuda(triton=True):
        backend = pytorch.load(ModelFolder(folder, "test", "", ""), "cuda", "fp32", wanted)
        assert backend.site.applied == wanted, backend.site.refused
        expected, found = predict(plain, rows), predict(backend, rows)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), kind
        if kind == "kl":
            latents = torch.randn(1, plain.latent_channels, 2, 2)
            expected, found = plain.decode(latents), backend.decode(latents)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
"""


@pytest.mark.parametrize("script", [_CASES, _NETWORKS], ids=["kernels", "networks"])
def test_kernels_are_as_near_to_the_exact_numbers_as_torch_s_own(script: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr[-3000:]
