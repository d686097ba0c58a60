"""What moves the weights beside AdamW, and what is refused in its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.train.fit import checkpoints
from ip2pbatch.train.fit.loop import Batch, Hooks, LoopSettings, make_accelerator, train


class Map(torch.nn.Module):
    """A map to learn, with weights enough that their moments are kept in 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) - x.flip(-1)).square().mean()


def batch(part: int) -> Batch:
    return {"x": torch.randn(32, 64, generator=torch.Generator().manual_seed(part))}


def settings(optimizer: str, steps: int = 60) -> LoopSettings:
    looped = {"lr": 1e-2, "warm_up": 0, "lr_end": 1.0, "precision": "no", "save_every": 30, "sample_every": 0}
    return LoopSettings(steps=steps, optimizer=optimizer, **looped)


def fit(folder: Path, looped: LoopSettings) -> tuple[Map, list[float]]:
    task = Map()
    train(task, looped, Hooks(batch, lambda step: None), make_accelerator(looped, folder, cpu=True), folder)
    return task, torch.load(checkpoints.in_order(folder)[-1] / "losses.pt")


def test_adamw_in_8_bits_learns_as_in_32_and_goes_on_exactly(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install 'ip2pbatch[bitsandbytes]'")
    whole, losses = fit(tmp_path / "whole", settings("adamw8bit"))
    state = torch.load(checkpoints.in_order(tmp_path / "whole")[-1] / "optimizer.bin")["state"][0]
    moments = state["__bnb_optimizer_quant_state__"]
    assert (moments["state1"].dtype, moments["state2"].dtype) == (torch.uint8, torch.uint8)
    _, usual = fit(tmp_path / "usual", settings("adamw"))
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] == pytest.approx(usual[-1], rel=0.1)
    assert losses != usual
    fit(tmp_path / "stopped", settings("adamw8bit", 30))
    again, resumed = fit(tmp_path / "stopped", settings("adamw8bit"))
    assert resumed == losses
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_without_bitsandbytes_it_is_refused_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingError, match="AdamW in 8 bits needs bitsandbytes") as caught:
        make_accelerator(settings("adamw8bit"), tmp_path, cpu=True)
    assert caught.value.exit_code == 6
    assert str(caught.value.hint).startswith("pip install 'ip2pbatch[bitsandbytes]'")


@pytest.mark.parametrize(("name", "said"), [
    ("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
    ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
])  # fmt: skip
def test_what_would_share_out_the_weights_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=f"{said} shares out the weights") as caught:
        make_accelerator(settings("adamw"), tmp_path, cpu=True)
    assert caught.value.exit_code == 2
    assert "--multi_gpu" in str(caught.value.hint)
