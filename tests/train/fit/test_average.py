"""What a checkpoint keeps where not every weight learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ip2pbatch.errors import ModelError
from ip2pbatch.train.fit import checkpoints
from ip2pbatch.train.fit.average import Average
from ip2pbatch.train.fit.loop import Batch, Hooks, LoopSettings, make_accelerator, train


class HalfFrozen(torch.nn.Module):
    """Two layers, of which the second alone learns."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fixed, self.learns = torch.nn.Linear(8, 64), torch.nn.Linear(64, 8)
        torch.nn.init.constant_(self.fixed.bias, bias)
        self.fixed.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.learns(self.fixed(x)) - x).square().mean()


def batch(part: int) -> Batch:
    return {"x": torch.randn(16, 8, generator=torch.Generator().manual_seed(part))}


def fit(folder: Path, steps: int, bias: float = 0.0) -> dict[str, torch.Tensor]:
    settings = LoopSettings(
        steps=steps, lr=1e-2, warm_up=0, lr_end=1.0, precision="no", save_every=2, sample_every=0, ema=0.5
    )
    task = HalfFrozen(bias)
    train(task, settings, Hooks(batch, lambda step: None), make_accelerator(settings, folder, cpu=True), folder)
    return task.state_dict()


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def test_a_checkpoint_has_what_learns_and_the_digest_of_the_rest(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 6)
    fit(tmp_path / "stopped", 2)
    kept = checkpoints.in_order(tmp_path / "stopped")[-1]
    assert set(load_file(kept / "model.safetensors")) == {"learns.weight", "learns.bias"}
    assert len(torch.load(kept / "custom_checkpoint_0.pkl")["shadow_params"]) == 2
    assert len(json.loads((kept / "frozen.json").read_text())["frozen"]) == 12
    assert same(fit(tmp_path / "stopped", 6), whole), "to the bit"


def test_a_checkpoint_beside_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, 2)
    with pytest.raises(ModelError, match="made beside other frozen weights"):
        fit(tmp_path, 4, bias=1.0)


def test_a_checkpoint_of_an_older_version_has_all_weights_and_is_gone_on_from(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 6)
    fit(tmp_path / "older", 2)
    kept, task = checkpoints.in_order(tmp_path / "older")[-1], HalfFrozen()
    task.load_state_dict(load_file(kept / "model.safetensors"), strict=False)
    save_file(task.state_dict(), kept / "model.safetensors")
    average = torch.load(kept / "custom_checkpoint_0.pkl")
    average["shadow_params"] = [task.fixed.weight.data, task.fixed.bias.data, *average["shadow_params"]]
    torch.save(average, kept / "custom_checkpoint_0.pkl")
    (kept / "frozen.json").unlink()
    assert same(fit(tmp_path / "older", 6), whole)


def test_the_average_is_in_place_for_a_while_and_the_weights_come_back() -> None:
    task = HalfFrozen()
    average, before = Average(task, 0.5, power=False, foreach=False), task.learns.bias.detach().clone()
    average.step()
    with torch.no_grad():
        task.learns.bias.add_(1)
    with average.in_place():
        assert torch.equal(task.learns.bias, before)
        assert not task.training
    assert torch.equal(task.learns.bias, before + 1)
    assert task.training
