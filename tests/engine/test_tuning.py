"""What is decided by the job: a row bucket that is measured once, and whether compiling pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_model

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch import steps
from ip2pbatch.backends.pytorch.steps import compiled
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import tuning
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.run.engine import OutOfMemory


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "kl", "kl")


@pytest.fixture
def backend(model: Path) -> pytorch.TorchBackend:
    return pytorch.load(ModelFolder(model, "test", "", ""), "cpu", "fp32")


def ask(number: int, size: tuple[int, int], count: int = 20) -> Edit:
    return make_edit(f"photo-{number}", "make it snow", Guidance(5, 1.5), 7, steps=count, sampler="euler_a", size=size)


def test_the_smallest_bucket_that_is_as_fast_as_the_best_is_taken() -> None:
    assert tuning.best_rows({3: 3.3, 6: 6.1, 12: 12.0}.__getitem__, 12) == 6
    assert tuning.best_rows(float, 96) == 3
    assert tuning.best_rows(lambda rows: 1.0, 48) == 48


def test_a_bucket_that_does_not_fit_is_not_tried_twice() -> None:
    tried: list[int] = []

    def seconds(rows: int) -> float:
        tried.append(rows)
        if rows > 6:
            raise OutOfMemory("full")
        return 1.0

    assert tuning.best_rows(seconds, 96) == 6
    assert tried == [3, 6, 12]


def test_a_size_keeps_the_bucket_that_it_was_once_given(
    backend: pytorch.TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple[int, int], int]] = []

    def seconds(_: object, __: object, size: tuple[int, int], rows: int) -> float:
        asked.append((size, rows))
        return 1.0 if size == (64, 48) else float(rows)

    monkeypatch.setattr(tuning, "seconds_of_step", seconds)
    edits = [ask(0, (64, 48)), ask(1, (64, 64)), ask(2, (64, 48))]
    for _ in range(2):
        editor = Editor(backend, safety=False)
        notes = tuning.tune_batch(editor, backend, edits, "digest")
        assert [editor.limits.row_bucket(size) for size in ((64, 48), (64, 64))] == [12, 3]
        assert notes == ["12 network rows a call at 64 × 48", "3 network rows a call at 64 × 64"]
    assert asked == [(size, rows) for size in ((64, 48), (64, 64)) for rows in (3, 6, 12)]
    tuning.tune_batch(Editor(backend, safety=False), backend, edits[:1], "another digest")
    assert len(asked) == 9


def test_a_call_of_the_asked_for_shape_is_timed(backend: pytorch.TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    predict = backend.predict_noise

    def noting(latents: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(latents.shape))
        return predict(latents, *rest)

    monkeypatch.setattr(backend, "predict_noise", noting)
    assert tuning.seconds_of_call(backend, (64, 48), 5) > 0
    assert set(shapes) == {(5, 4, 6, 8)}
    assert len(shapes) > 1  # some to warm up
    shapes.clear()
    editor = Editor(backend, safety=False)
    limits = editor.limits
    assert tuning.seconds_of_step(editor, backend, (64, 48), 6) > 0
    assert set(shapes) == {(6, 4, 6, 8)}
    assert editor.limits == limits


def test_only_a_large_job_is_compiled_and_only_where_that_can_be(
    backend: pytorch.TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "seconds_of_call", lambda *_: 0.6)
    monkeypatch.setattr(compiled, "why_no_compiler", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda stage, **_: stage)
    editor = Editor(backend, safety=False)
    few, many = [ask(0, (64, 64))], [ask(number, (64, 64), 100) for number in range(300)]
    assert tuning.compile_if_it_pays(editor, backend, few) == []
    before = backend.site.applied
    assert "compiled" not in before
    with monkeypatch.context() as here:
        here.setattr(compiled, "why_no_compiler", lambda _: "there is no C++ compiler on this machine")
        assert tuning.compile_if_it_pays(editor, backend, many) == []
    (note,) = tuning.compile_if_it_pays(editor, backend, many)
    assert "--compile off" in note
    assert set(backend.site.applied) == {*before, "compiled"}


def test_what_is_compiled_late_lies_within_what_is_about_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "why_no_compiler", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda stage, **_: stage)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        site = pytorch.load(ModelFolder(model, "test", "", ""), "cpu", "fp32").site
        assert steps.compile_late(site) == ""
    finally:
        torch.set_num_threads(before)
    assert site.applied[-2:] == ["compiled", "row-workers"]
    assert steps.compile_late(site) == ""
    assert sorted(site.applied) == sorted(set(site.applied))
