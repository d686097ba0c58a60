"""The training loop: exact resume after a kill anywhere, parts of a step, averages, full disks, losses gone wrong."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ip2pbatch.errors import MissingError, ModelError, ResourceError, StoppedError, TrainingError
from ip2pbatch.train.fit import checkpoints, loop
from ip2pbatch.train.fit import interrupts as pace
from ip2pbatch.train.fit.average import Average
from ip2pbatch.train.fit.loop import Batch, Health, Hooks, LoopSettings, make_accelerator, train

STEPS = 6


class Regression(torch.nn.Module):
    """A network with dropout, so that the RNG matters, whose loss is that of fitting a fixed map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.SiLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) - x.flip(-1)).square().mean()


def batch(part: int) -> Batch:
    return {"x": torch.from_numpy(np.random.default_rng([3, part]).standard_normal((16, 8), dtype=np.float32))}


def settings(**changed: object) -> LoopSettings:
    usual = {
        "steps": STEPS, "lr": 1e-2, "warm_up": 0, "lr_end": 1.0, "precision": "no",
        "save_every": 2, "sample_every": 100, "log_every": 1,
    }  # fmt: skip
    return LoopSettings(**(usual | changed))


def losses_below(folder: Path) -> list[float]:
    latest = checkpoints.latest_checkpoint(folder)
    assert latest is not None
    return torch.load(latest / "losses.pt")


def run(folder: Path, looped: LoopSettings | None = None, hooks: Hooks | None = None) -> tuple[Regression, list[float]]:
    task, looped = Regression(), looped or settings()
    accelerator = make_accelerator(looped, folder, cpu=True)
    train(task, looped, hooks or Hooks(batch, lambda step: None), accelerator, folder)
    return task, losses_below(folder)


class KilledError(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Regression, list[float]]:
    """The training that nothing interrupted."""
    return run(tmp_path_factory.mktemp("whole"))


def test_batches_made_ahead_in_threads_are_the_same_in_the_same_order(
    tmp_path: Path, whole: tuple[Regression, list[float]]
) -> None:
    def uneven(part: int) -> Batch:
        time.sleep(0.02 * (part % 3 == 0))  # the later ones are ready first
        return batch(part)

    _, losses = run(tmp_path, settings(loaders=3), Hooks(uneven, lambda step: None))
    assert losses == whole[1]


def test_a_batch_that_cannot_be_made_ahead_ends_the_training_with_its_error(tmp_path: Path) -> None:
    def torn(part: int) -> Batch:
        if part == 4:
            raise ModelError("a torn shard")
        return batch(part)

    with pytest.raises(ModelError, match="torn"):
        run(tmp_path, settings(loaders=2), Hooks(torn, lambda step: None))


@pytest.mark.parametrize("killed_at", [1, 2, STEPS - 1])
def test_a_training_killed_at_any_step_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: tuple[Regression, list[float]], killed_at: int
) -> None:
    def dies(part: int) -> Batch:
        if part == killed_at:
            raise KilledError
        return batch(part)

    with pytest.raises(KilledError):
        run(tmp_path, hooks=Hooks(dies, lambda step: None))
    torch.manual_seed(999)  # another process would not have this one's RNG
    task, losses = run(tmp_path)
    assert losses == pytest.approx(whole[1], abs=1e-6)
    for name, value in task.state_dict().items():
        assert torch.equal(value, whole[0].state_dict()[name]), name


def test_a_training_killed_while_a_checkpoint_is_written_goes_on_from_the_older_one(
    tmp_path: Path, whole: tuple[Regression, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, save_state = itertools.count(), Accelerator.save_state

    def dies(self: Accelerator, *args: object, **named: object) -> str:
        written = save_state(self, *args, **named)
        if next(calls) == 1:
            raise KilledError
        return written

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", dies)
        with pytest.raises(KilledError):
            run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["partial", "step-2"]
    assert run(tmp_path)[1] == pytest.approx(whole[1], abs=1e-6)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{STEPS}"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_between_two_steps_with_a_checkpoint(
    tmp_path: Path, whole: tuple[Regression, list[float]], number: signal.Signals, code: int
) -> None:
    def asked(part: int) -> Batch:
        if part == 2:
            os.kill(os.getpid(), number)
        return batch(part)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match="checkpoint of step 3 of 6 is written") as caught:
        run(tmp_path, hooks=Hooks(asked, lambda step: None))
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]
    assert run(tmp_path)[1] == whole[1]


def test_checkpoints_and_sheets_come_by_minutes_as_well(
    tmp_path: Path, whole: tuple[Regression, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen = itertools.count(step=20.0), []
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(now))
    looped = settings(save_every=0, save_minutes=1.0, sample_every=0, sample_minutes=1.0, keep=9)

    def sample(step: int) -> None:
        seen.append(step)
        torch.manual_seed(step)

    _, losses = run(tmp_path, looped, Hooks(batch, sample))
    steps = [checkpoints.step_of(path) for path in checkpoints.in_order(tmp_path)]
    assert len(steps) > 2
    assert steps[-1] == STEPS
    assert len(seen) > 1
    assert losses == whole[1], "a look uses up none of the training's randomness"


def test_at_a_constant_rate_a_longer_training_goes_on_from_a_shorter_one(
    tmp_path: Path, whole: tuple[Regression, list[float]]
) -> None:
    def started(name: str, **changed: object) -> Path:
        facts = {"version": 1, "settings": {"loop": {"steps": 2, "lr": 0.01}}, "inputs": {}, "photos": ""}
        facts["settings"]["loop"] |= changed
        (tmp_path / name).mkdir()
        (tmp_path / name / "started.json").write_text(json.dumps(facts))
        return tmp_path / name

    def only_from(part: int) -> Batch:
        assert part >= 4, "a step was made again"
        return batch(part)

    run(started("short", steps=4), settings(steps=4))
    run(started("other", steps=5, lr=0.1), settings(steps=5))
    task, losses = run(started("long", steps=STEPS), hooks=Hooks(only_from, lambda step: None))
    assert losses == whole[1]
    assert all(torch.equal(value, whole[0].state_dict()[name]) for name, value in task.state_dict().items())
    with pytest.raises(AssertionError, match="made again"):
        run(started("paced", steps=7), settings(steps=7), Hooks(only_from, lambda step: None, paced=True))
    with pytest.raises(AssertionError, match="made again"):
        run(started("falling", steps=8), settings(steps=8, lr_end=0.1), Hooks(only_from, lambda step: None))
    assert run(started("shorter", steps=3), settings(steps=3))[1] == whole[1][:3], "no checkpoint beyond its end"


def test_what_gets_the_figures_and_is_not_installed_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    run(tmp_path, settings(steps=1))
    assert "no TensorBoard log: pip install tensorboard" in capsys.readouterr().err
    with pytest.raises(MissingError, match="wandb is not installed") as caught:
        run(tmp_path, settings(trackers=["wandb"]))
    assert caught.value.hint == "pip install 'ip2pbatch[wandb]'"


SLOWLY = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_loop import Hooks, batch, run, settings
def slow(part):
    time.sleep(0.05 if part < 40 else 3600)  # it cannot end before it is killed
    return batch(part)
run(Path({folder!r}), settings(steps=400), Hooks(slow, lambda step: None))
"""


@pytest.mark.timeout(900)
def test_a_process_that_is_killed_outright_loses_only_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    script, folder = (
        SLOWLY.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed")),
        tmp_path / "killed",
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 800  # it imports torch and writes checkpoints: minutes on a busy machine
        while not (done := checkpoints.in_order(folder)) or checkpoints.step_of(done[-1]) < 4:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    reached = checkpoints.step_of(checkpoints.in_order(folder)[-1])
    assert reached < 41
    more = settings(steps=reached + 3)
    assert run(folder, more)[1] == pytest.approx(run(tmp_path / "whole", more)[1], abs=1e-6)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses larger files, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_with_a_clear_error_and_the_older_checkpoint_stays(
    tmp_path: Path, whole: tuple[Regression, list[float]]
) -> None:
    run(tmp_path, settings(steps=2))
    with (
        files_of_at_most(1000),
        pytest.raises(ResourceError, match=r"step 4 could not be written .* 2 is kept") as caught,
    ):
        run(tmp_path)
    assert "free some space" in str(caught.value.hint)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-2"]
    assert run(tmp_path)[1] == pytest.approx(whole[1], abs=1e-6)


def test_a_disk_too_small_for_checkpoints_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = checkpoints.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"which has 0\.0 GB free"):
        run(tmp_path, hooks=Hooks(lambda part: pytest.fail("a step was made"), lambda step: None))


def test_a_damaged_checkpoint_is_named_and_not_trained_from(tmp_path: Path) -> None:
    run(tmp_path, settings(steps=2))
    (tmp_path / "checkpoints" / "step-2" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="step-2 cannot be read"):
        run(tmp_path)


def test_parts_of_a_step_are_one_large_batch(tmp_path: Path) -> None:
    def large(step: int) -> Batch:
        return {"x": torch.cat([batch(4 * step + part)["x"] for part in range(4)])}

    def without_dropout(folder: Path, looped: LoopSettings, hooks: Hooks) -> tuple[Regression, list[float]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
            return run(folder, looped, hooks)

    nothing = Hooks(batch, lambda step: None)
    parted, losses = without_dropout(tmp_path / "parts", settings(accumulate=4), nothing)
    at_once, expected = without_dropout(tmp_path / "once", settings(), Hooks(large, lambda step: None))
    assert losses == pytest.approx(expected, abs=1e-5)  # other sums of the same numbers
    for name, value in parted.state_dict().items():
        torch.testing.assert_close(value, at_once.state_dict()[name], atol=1e-5, rtol=0)


def test_the_average_follows_the_original_once_a_step(tmp_path: Path) -> None:
    looped = settings(accumulate=3, ema=0.5, ema_warm_up="original", save_every=1, keep=STEPS)
    run(tmp_path, looped)
    raw = [
        torch.load(path / "custom_checkpoint_0.pkl", weights_only=False)["shadow_params"]
        for path in checkpoints.in_order(tmp_path)
    ]
    from safetensors.torch import load_file

    weights = [load_file(path / "model.safetensors") for path in checkpoints.in_order(tmp_path)]
    names = [name for name, _ in Regression().named_parameters()]
    average = [value.clone() for value in Regression().parameters()]
    for n, (shadow, now) in enumerate(zip(raw, weights, strict=True), start=1):
        decay = min(0.5, n / (9 + n))  # LitEma of the original code; here the first step is taken as it is
        average = [decay * old + (1 - decay) * now[name] for old, name in zip(average, names, strict=True)]
        if n > 1:
            for ours, theirs in zip(shadow, average, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        else:
            average = [value.clone() for value in shadow]


def test_the_average_moves_four_times_a_step_where_the_original_does(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run(tmp_path, settings(steps=2, ema=0.5, ema_warm_up="original", ema_moves=4, save_every=1, keep=2))
    names = [name for name, _ in Regression().named_parameters()]
    weights = [dict(Regression().named_parameters())]
    weights += [load_file(path / "model.safetensors") for path in checkpoints.in_order(tmp_path)]
    average = [value.clone() for value in Regression().parameters()]
    for n in range(1, 9):  # the first, as it is, then decays that grow to a half
        now, decay = weights[n // 4], 0.0 if n == 1 else min(0.5, n / (9 + n))
        average = [decay * old + (1 - decay) * now[name] for old, name in zip(average, names, strict=True)]
    state = torch.load(checkpoints.in_order(tmp_path)[-1] / "custom_checkpoint_0.pkl", weights_only=False)
    for ours, theirs in zip(state["shadow_params"], average, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=0)


def test_the_average_of_the_paper_is_slow_in_the_end() -> None:
    ema = Average(Regression(), 0.9999, power=False, foreach=False).ema
    assert ema.get_decay(1_000_000) == 0.9999


def test_a_loss_that_is_not_finite_stops_the_training_and_says_where(tmp_path: Path) -> None:
    def poisoned(part: int) -> Batch:
        return {"x": torch.full((4, 8), math.nan)} if part == 3 else batch(part)

    with pytest.raises(TrainingError, match="step 4: the loss is nan"):
        run(tmp_path, hooks=Hooks(poisoned, lambda step: None))
    latest = checkpoints.latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "step-2"


def test_a_loss_that_explodes_stops_the_training() -> None:
    losses: list[float] = []
    health = Health(settings(), losses)

    def go(steps: range, loss: float) -> None:
        for step in steps:
            losses.append(loss)
            health.check(step, 1.0)

    go(range(50), 1.0)
    go(range(50, 100), 3.0)
    with pytest.raises(TrainingError, match="step 150: the mean loss of 50 steps is 6, and was 1") as caught:
        go(range(100, 200), 6.0)
    assert "loop.lr" in str(caught.value.hint)
    Health(settings(explode=0), [1.0] * 50 + [6.0] * 50).check(99, 1.0)
    with pytest.raises(TrainingError, match="step 100"):
        Health(settings(), [1.0] * 50 + [6.0] * 50).check(99, 1.0)


def test_a_gradient_that_is_not_finite_stops_all_but_the_scaler_of_fp16() -> None:
    with pytest.raises(TrainingError, match="gradient is not finite"):
        Health(settings(), [1.0]).check(0, math.inf)
    health = Health(settings(precision="fp16"), [1.0])
    for step in range(50):
        health.check(step, math.inf)
    with pytest.raises(TrainingError, match="step 51: the gradient is not finite"):
        health.check(50, math.inf)
