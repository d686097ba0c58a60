"""Muon: its update is orthogonal, its memory layout does not matter, and it learns."""

from __future__ import annotations

import pytest
import torch

from ip2pbatch.train.fit.loop import LoopSettings, lr_at, make_optimizer
from ip2pbatch.train.fit.muon import orthogonalise


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_singular_values_end_up_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.max() < 1.25
    assert values.median() > 0.65


def trained(memory_format: torch.memory_format, optimizer: str) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3))
    model = model.to(memory_format=memory_format)
    steps = make_optimizer(model, LoopSettings(steps=1, optimizer=optimizer, lr=1e-3, muon_lr=0.02))
    source = torch.rand(4, 3, 16, 16)
    for _ in range(25):
        loss = (model(source) - source.flip(1)[..., 2:-2, 2:-2]).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
    return loss.item(), model[0].weight.detach().contiguous()


def test_channels_last_takes_the_same_steps() -> None:
    _, plain = trained(torch.contiguous_format, "muon")
    _, last = trained(torch.channels_last, "muon")
    assert torch.allclose(plain, last, atol=2e-3)


def test_it_learns_faster_than_adamw_on_a_small_convolution() -> None:
    assert trained(torch.contiguous_format, "muon")[0] < 0.7 * trained(torch.contiguous_format, "adamw")[0]


def test_the_rate_warms_up_holds_and_falls() -> None:
    settings = LoopSettings(steps=100, warm_up=10, hold=0.5, lr_end=0.1)
    rates = [lr_at(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:50]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
