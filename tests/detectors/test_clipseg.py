"""Words by a tiny random model of the real class, and what is told where there is none, or another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from tiny_clipseg import save_clipseg

from ip2pbatch.detectors import cached_model
from ip2pbatch.detectors.clipseg import open_segmenter
from ip2pbatch.errors import ModelError, PlanError
from ip2pbatch.plan.edits import Sought

PHOTO = skimage.data.coffee()[:120, :200]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_clipseg(tmp_path / "clipseg")


def sought(model: Path | str, words: str = "the sky") -> Sought:
    return Sought("words", "clipseg", words, str(model))


def test_a_mask_has_the_photo_s_shape_and_follows_words_and_photo(folder: Path) -> None:
    detector = open_segmenter(sought(folder))
    mask = detector.find(PHOTO)
    assert (mask.shape, mask.dtype) == ((120, 200), np.uint8)
    assert 0 < mask.mean() < 255
    assert (detector.find(PHOTO) == mask).all()
    assert (open_segmenter(sought(folder, "a dog and a horse")).find(PHOTO) != mask).any()
    assert (detector.find(PHOTO[::-1].copy()) != mask).any()


def test_the_background_is_what_is_not_the_subject(folder: Path) -> None:
    subject, background = (open_segmenter(Sought(kind, "x", model=str(folder))) for kind in ("subject", "background"))
    assert (subject.find(PHOTO).astype(int) + background.find(PHOTO) == 255).all()


def test_below_the_threshold_nothing_is_found(tmp_path: Path) -> None:
    none = open_segmenter(sought(save_clipseg(tmp_path / "none", bias=-3000.0)))
    assert not none.find(PHOTO).any()
    whole = open_segmenter(sought(save_clipseg(tmp_path / "all", bias=3000.0)))
    assert whole.find(PHOTO).min() == 255


def test_more_words_than_it_reads_are_told(folder: Path) -> None:
    with pytest.raises(PlanError, match="is more than clipseg reads"):
        open_segmenter(sought(folder, "the sky and the sea " * 9))


def test_other_weights_are_another_detector(folder: Path, tmp_path: Path) -> None:
    other = save_clipseg(tmp_path / "other", seed=1)
    assert cached_model.identity(str(folder)) == cached_model.identity(str(folder))
    assert cached_model.identity(str(folder)) != cached_model.identity(str(other))
    assert cached_model.identity(f"a/b@{'c' * 40}") == f"clipseg a/b@{'c' * 40}"


def test_what_is_not_there_is_told_with_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="CIDAS/clipseg-rd64-refined is not on this machine") as told:
        cached_model.identity("")
    assert (told.value.exit_code, "hf download CIDAS/clipseg-rd64-refined" in str(told.value.hint)) == (6, True)
    with pytest.raises(ModelError, match=r"there is no model folder ./nowhere"):
        cached_model.identity("./nowhere")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer_config.json"):
        open_segmenter(sought(folder))


def test_damaged_and_other_models_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    with pytest.raises(ModelError, match="no CLIPSeg model could be loaded") as told:
        open_segmenter(sought(folder))
    assert told.value.exit_code == 6
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(ModelError, match="a model of the kind clip"):
        open_segmenter(sought(folder))
