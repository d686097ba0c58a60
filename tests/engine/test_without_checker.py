"""`safety: off`: the model's checker is neither hashed nor loaded nor missed, and runs from before go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_models import save_model

from ip2pbatch.backends import weights
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.errors import ModelError, UsageError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.backends import backend
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.machine import Machine

MACHINE = Machine.of(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "kl", safety=True)


@pytest.fixture
def model(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "kl"))


def choose(model: Path, safety: bool) -> EngineSpec:
    return engines.choose(str(model), MACHINE, safety=safety, note=print)[0]


def test_the_checker_is_neither_hashed_nor_loaded_nor_missed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(weights, "sha256s", lambda paths: hashed.extend(paths) or ["0" * 64 for _ in paths])
    folder = weights.resolve(str(model), checker=False)
    assert hashed
    assert not [path for path in hashed if "safety_checker" in path.parts or "feature_extractor" in path.parts]
    assert pytorch.load(folder).parts.checker is None
    assert pytorch.load(weights.resolve(str(model))).parts.checker is not None
    shutil.rmtree(model / "safety_checker")
    shutil.rmtree(model / "feature_extractor")
    assert weights.resolve(str(model), checker=False).digest == folder.digest
    with pytest.raises(ModelError, match="has no folder safety_checker"):
        weights.resolve(str(model))


@pytest.mark.parametrize("before", [True, False])
def test_a_run_goes_on_where_the_checker_is_switched_off_or_on(model: Path, tmp_path: Path, before: bool) -> None:
    """So did runs that hashed the checker whether or not they loaded it."""
    first, then = choose(model, before), choose(model, not before)
    assert first.model_digest != then.model_digest
    out = tmp_path / "out"
    open_run(out, first).close()
    with open_run(out, engines.as_known_in(out, str(model), MACHINE, then)) as run:
        assert run.spec.model_digest == first.model_digest
    assert backend("torch").is_known_as(str(model), first.model_digest)


def test_another_model_is_refused_all_the_same(model: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", save_model(tmp_path / "other", seed=1)
    open_run(out, choose(model, safety=True)).close()
    with pytest.raises(UsageError, match="this run was made with model"):
        open_run(out, engines.as_known_in(out, str(other), MACHINE, choose(other, safety=False)))


def test_a_lock_names_the_files_that_are_loaded(model: Path) -> None:
    _, loaded = backend("torch").files(str(model), safety=False)
    _, every = backend("torch").files(str(model), safety=True)
    assert set(every) - set(loaded) == {
        "feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors"
    }  # fmt: skip
    assert loaded.items() <= every.items()
