"""The flags that say how fast: what they take, and that an approximate one is part of a run's identity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import CommandLine

from ip2pbatch.errors import UsageError
from ip2pbatch.jobs.engines import choose
from ip2pbatch.run.machine import (
    Compile,
    Determinism,
    Machine,
    Precision,
    batch_of,
    device_of,
    interval_in,
    interval_of,
)


def test_a_batch_is_a_number_or_auto() -> None:
    assert [batch_of(text) for text in (None, "auto", "3")] == [None, "auto", 3]
    for text in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(UsageError, match="--batch takes a number from 1 or auto"):
            batch_of(text)


def test_a_device_is_one_that_there_may_be() -> None:
    assert [device_of(text) for text in (None, "cpu", "cuda", "cuda:1")] == [None, "cpu", "cuda", "cuda:1"]
    for text in ("gpu", "tpu", "mps:1", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "CUDA", "1", "cuda:1\n", ""):
        with pytest.raises(UsageError, match="is not a device") as caught:
            device_of(text)
        assert "cpu, cuda or cuda:1" in str(caught.value.hint)
    assert [device_of(text, "openvino") for text in ("cpu", "gpu", "gpu:1", "npu")] == ["cpu", "gpu", "gpu:1", "npu"]
    for text in ("cuda", "npu:1", "GPU"):
        with pytest.raises(UsageError, match="is not a device"):
            device_of(text, "openvino")


@pytest.mark.parametrize("backend", ["torch", "onnx", "fake"])
def test_a_word_that_is_no_device_is_a_mistake_and_a_device_that_is_not_here_is_missing(
    command: CommandLine, shoot: Path, backend: str
) -> None:
    flags = ("edit", shoot / "photos", "-i", "x", "--model", "tiny", "-o", shoot / "out", "--backend", backend)
    said = command(*flags, "--device", "gpu")
    assert said.code == 2
    assert "gpu is not a device" in said.err
    assert "hint: use cpu, cuda or cuda:1" in said.err
    if backend == "torch":
        for more in (("--precision", "fp16"), ("--precision", "fp16", "--determinism", "bitwise", "--fresh")):
            said = command(*flags, *more, "--device", "cuda:99")
            assert (said.code, "no device cuda:99 here" in said.err) == (6, True), said.err
    assert not list((shoot / "out").rglob("*.jpg"))


def test_an_interval_is_a_part_of_the_steps() -> None:
    assert interval_of("0.1..0.8") == (0.1, 0.8)
    assert interval_of("0..1") == (0.0, 1.0)
    assert interval_of(None) is None
    for text in ("0.8..0.1", "0.5", "-0.1..1", "0..2", "a..b", "0.5..0.5", "nan..1", ""):
        with pytest.raises(UsageError, match="no part of the steps"):
            interval_of(text)


def test_an_approximate_speed_up_is_named_in_the_run_s_identity_and_read_from_it() -> None:
    machine = Machine(precision=Precision.FP32, device="cpu", interval=(0.1, 0.8))
    spec, _ = choose("tiny", machine, safety=False, note=print)
    assert spec.approximations == ("guidance-interval 0.1..0.8",)
    assert interval_in(spec.approximations) == (0.1, 0.8)
    plain = Machine(precision=Precision.FP32, device="cpu")
    assert choose("tiny", plain, safety=False, note=print)[0].approximations == ()
    assert interval_in(()) is None


@pytest.fixture
def as_torch_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a level sets is torch's own and the process's: other tests find it as it was."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("level", "rounds", "exact"), [("fast", True, False), ("stable", False, False), ("bitwise", False, True)]
)
def test_a_level_says_how_a_gpu_may_round(as_torch_was: None, level: str, rounds: bool, exact: bool) -> None:
    machine = Machine(precision=Precision.FP32, device="cpu", determinism=Determinism(level))
    choose("tiny", machine, safety=False, note=print)[1]().close()
    assert torch.backends.cudnn.allow_tf32 == rounds
    assert torch.are_deterministic_algorithms_enabled() == exact
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == exact  # without it torch refuses to call cuBLAS then


@pytest.mark.parametrize("auto", [{"batch": "auto"}, {"compile": Compile.ON}], ids=str)
def test_what_hangs_on_a_measurement_is_not_bitwise(auto: dict[str, Any]) -> None:
    machine = Machine(precision=Precision.FP32, device="cpu", determinism=Determinism.BITWISE, **auto)
    with pytest.raises(UsageError, match="is bitwise") as caught:
        choose("tiny", machine, safety=False, note=print)
    assert "--determinism stable" in str(caught.value.hint)


def test_a_step_can_be_left_out_and_a_stranger_cannot() -> None:
    machine = Machine(precision=Precision.FP32, device="cpu", without=("time-table", "row-workers"))
    _, open_engine = choose("tiny", machine, safety=False, note=print)
    engine = open_engine()
    assert "text-memory" in engine.steps
    assert not {"time-table", "row-workers"} & set(engine.steps)
    with pytest.raises(UsageError, match="there is no step wings"):
        choose("tiny", Machine(precision=Precision.FP32, device="cpu", without=("wings",)), safety=False, note=print)
