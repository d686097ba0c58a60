"""CLIP similarities against an independent computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import make_clip, save_clip
from tiny_models import make_picture, make_tokenizer

from ip2pbatch.errors import ModelError
from ip2pbatch.measures.clip import DEVIATION, MEAN, Clip, similarities, to_unit_range


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum()) / np.sqrt((b * b).sum()))


def test_the_four_cosines_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(4, 3, 8))]
    found = similarities(*(torch.from_numpy(v).float() for v in unit))
    for row, (i0, i1, t0, t1) in zip(found, zip(*unit, strict=True), strict=True):
        expected = (cosine(i0, t0), cosine(i1, t1), cosine(i1 - i0, t1 - t0), cosine(i0, i1))
        assert (row.clip_sim_0, row.clip_sim_1, row.clip_sim_dir, row.clip_sim_image) == pytest.approx(
            expected, abs=1e-5
        )


def test_pictures_are_prepared_as_the_papers_code_does() -> None:
    clip = make_clip()
    picture = make_picture(3, (48, 80))
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(picture / 255.0).permute(2, 0, 1)[None], size=(32, 32), mode="bicubic"
    )[0].numpy()
    prepared = (resized - np.array(MEAN)[:, None, None]) / np.array(DEVIATION)[:, None, None]
    with torch.no_grad():
        pooled = clip.model.vision_model(pixel_values=torch.from_numpy(prepared)[None].float()).pooler_output
        expected = (pooled @ clip.model.visual_projection.weight.T)[0].numpy()
    found = clip.images(to_unit_range([picture]))[0].numpy()
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    as_bytes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    assert np.allclose(clip.images(as_bytes)[0].numpy(), found, atol=1e-5)


def test_a_vector_depends_on_no_neighbour_and_no_padding() -> None:
    clip = make_clip()
    texts = [
        "make it snow",
        "a photo of a house beside the sea at night and a long way from here with more words",
        "sea",
    ]
    together = clip.texts(texts)
    alone = torch.cat([make_clip().texts([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(clip.texts(texts[::-1]), together.flip(0)), "kept vectors are the same"
    pictures = to_unit_range([make_picture(seed) for seed in range(5)])
    assert torch.allclose(clip.images(pictures, batch=2), clip.images(pictures, batch=5), atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)


def test_a_pair_is_scored_with_its_own_captions() -> None:
    clip = make_clip()
    before, after = (to_unit_range([make_picture(s) for s in seeds]) for seeds in ((0, 1), (2, 3)))
    captions = [("a house", "a house in snow"), ("the sea", "the sea at night")]
    both = clip.score(before, after, captions)
    second = clip.score(before[1:], after[1:], captions[1:])[0]
    assert both[1].clip_sim_dir == pytest.approx(second.clip_sim_dir, abs=1e-4)
    assert both[0] != both[1]
    same = clip.score(before[:1], before[:1], captions[:1])[0]
    assert same.clip_sim_image == pytest.approx(1, abs=1e-5)
    assert same.clip_sim_dir == 0, "a pair that does not change has no direction"


def test_a_model_comes_from_a_folder_and_a_wrong_one_says_so(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    picture = to_unit_range([make_picture(1)])
    assert torch.allclose(Clip.load(str(folder), "cpu").images(picture), make_clip().images(picture), atol=1e-6)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no CLIP model") as caught:
        Clip.load(str(tmp_path / "empty"))
    assert "model.safetensors" in str(caught.value.hint)
    make_tokenizer().save_pretrained(tmp_path / "empty")
    with pytest.raises(ModelError):
        Clip.load(str(tmp_path / "empty"))
