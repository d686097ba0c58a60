"""What waits until it is asked for: loaded by no picture, and whole as soon as somebody wants it."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ip2pbatch.backends.pytorch import deferred

PICTURE = """
import sys
from ip2pbatch.backends.pytorch import deferred
deferred.process_is_ours()
deferred.defer()
import torch, transformers
from ip2pbatch.backends import weights
from ip2pbatch.backends.pytorch import backend
model = backend.load(weights.resolve("tiny"), "cpu", "fp32")
text = model.encode_text(["make it snow"])
image = model.encode_image(torch.zeros(1, 3, 32, 32))
model.decode(model.predict_noise(image, torch.tensor(1.0), text, image))
heavy = ("torch._dynamo.utils", "torch._inductor", "torch.distributed.tensor", "triton", "diffusers.hooks.mag_cache",
         "diffusers.models.transformers.auraflow_transformer_2d", "diffusers.models.unets.unet_motion_model",
         "diffusers.models.autoencoders.vq_model", "scipy.optimize", "scipy.stats.distributions", "scipy.special",
         "peft")
assert not (there := [name for name in heavy if name in sys.modules]), there
assert torch.distributed.is_available()
"""

WHOLE = """
import scipy.optimize, peft
from diffusers import DPMSolverMultistepScheduler, LMSDiscreteScheduler, SD3Transformer2DModel
linear = LMSDiscreteScheduler()
linear.set_timesteps(4)
assert linear.get_lms_coefficient(1, 0, 0)
schedule = DPMSolverMultistepScheduler(use_beta_sigmas=True)
schedule.set_timesteps(4)
assert "scipy.stats.distributions" in sys.modules and len(schedule.timesteps) == 4
from diffusers.models.unets import UNet3DConditionModel
from diffusers.models.autoencoders import VQModel
models = transformers.models
from transformers.models import bert, clip
from transformers import BertModel, CLIPTextModel
assert transformers.models.bert is bert is models.bert
assert (bert.BertModel, clip.CLIPTextModel) == (BertModel, CLIPTextModel)
import diffusers.hooks
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.models.attention import BasicTransformerBlock
assert diffusers.hooks.apply_group_offloading and diffusers.models.transformers.SD3Transformer2DModel

@torch.compiler.disable(reason="a test")
def early(x):
    return x * 2
assert early(2) == 4 and "torch._dynamo.utils" not in sys.modules

import torch._dynamo.config
import torch._dynamo as compiler
assert type(compiler) is type(sys) and compiler.config is torch._dynamo.config
from torch._dynamo import trace_rules
assert trace_rules.is_callable_allowed(BasicTransformerBlock)
graphs = []
def backend_of(graph, inputs):
    graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
    return graph.forward
compiled = torch.compile(lambda x: early(x + 1) + 3, backend=backend_of)
assert compiled(torch.tensor(1.0)) == 7
assert len(graphs) == 2, graphs  # one before what is kept from the compiler, and one after it
assert torch.compiler.disable(lambda: 1)() == 1
"""


def test_a_picture_loads_no_compiler_and_who_asks_for_one_has_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PICTURE + WHOLE], cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_who_looks_for_a_library_finds_none_and_who_needs_it_has_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "its_library.py").write_text("")
    (tmp_path / "that_looks.py").write_text("from importlib.util import find_spec\nfound = find_spec('its_library')")
    (tmp_path / "that_needs.py").write_text("import its_library")
    for name in ("that_looks", "that_needs"):
        deferred.import_without(name, "its_library")
    assert sys.modules["that_looks"].found is None
    assert "that_needs" not in sys.modules
    assert "its_library" not in sys.modules
    importlib.import_module("that_needs")
    for name in ("that_looks", "that_needs", "its_library"):
        del sys.modules[name]


def test_the_collector_rests_while_we_load_and_in_a_process_of_others_never(monkeypatch: pytest.MonkeyPatch) -> None:
    with deferred.loading():
        assert gc.isenabled()
    monkeypatch.setattr(deferred, "_alone", True)
    try:
        with suppress(ImportError), deferred.loading():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
