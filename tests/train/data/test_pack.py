"""Pairs and shards: what is written is what is read, a second run adds only what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from diffusers import AutoencoderDC, AutoencoderKL
from training_photos import make_photos

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data import pack_latents as pack
from ip2pbatch.train.data.broken import BrokenSampleError
from ip2pbatch.train.data.crops import held_out, load_rgb, to_pixels, to_tensor
from ip2pbatch.train.data.pair_folder import find_pairs
from ip2pbatch.train.fit.autoencoder import fold_standardisation
from ip2pbatch.train.fit.scratch import draw
from ip2pbatch.train.pairs import procedural as pairs
from ip2pbatch.train.pairs.families import FAMILIES, target

FEW = ("night", "invert")


def make_pairs(folder: Path, **settings: object) -> Path:
    make_photos(folder / "photos", train=3, held=1, side=32)
    config = pairs.Config(maker="procedural", side=32, families=FEW, workers=1, quality=100, **settings)
    pairs.run(config, {}, folder / "pairs", folder / "photos")
    return folder / "pairs"


def small_dc() -> AutoencoderDC:
    torch.manual_seed(0)
    layers = {"encoder_layers_per_block": (0, 1, 1, 1), "decoder_layers_per_block": (0, 1, 1, 1)}
    channels = {"encoder_block_out_channels": (4, 8, 8, 16), "decoder_block_out_channels": (4, 8, 8, 16)}
    scales = {"encoder_qkv_multiscales": ((),) * 4, "decoder_qkv_multiscales": ((),) * 4}
    return AutoencoderDC(latent_channels=8, **layers, **channels, **scales).eval()


def test_pairs_are_edits_of_the_crop_they_lie_beside(tmp_path: Path) -> None:
    found = find_pairs(make_pairs(tmp_path) / "pairs")
    assert len(found) == 3
    for pair in found:
        assert not held_out(pair.path.name)
        source, inverted = load_rgb(pair.picture("source")), load_rgb(pair.picture("invert"))
        away = np.abs(inverted.astype(int) - target(FAMILIES["invert"], source, 0.97)).mean()
        assert away < 8


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    config = pairs.Config(maker="procedural", side=32, families=FEW, workers=1, quality=100, variants=2)
    pairs.run(config, {}, folder, tmp_path / "photos")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    assert len(after) == 2 * len(before)
    assert all(after[path] == when for path, when in before.items())


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_shards_give_back_the_latents_and_are_webdataset(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path)
    small_dc().save_pretrained(tmp_path / "autoencoder" / "vae")
    inputs = {"autoencoder": tmp_path / "autoencoder", "pairs": folder}
    metrics = pack.run(pack.Config(crops_per_shard=2, precision="no"), inputs, tmp_path / "pack", tmp_path)
    assert metrics["crops"] == 3
    assert metrics["latents"] == 9
    crops = pack.read_shards(tmp_path / "pack" / "shards")
    assert [crop.names for crop in crops] == [("source", *FEW)] * 3
    pair = next(pair for pair in find_pairs(folder / "pairs") if pair.path.name == crops[0].key)
    with torch.no_grad():
        expected = small_dc().encode(to_tensor([load_rgb(pair.picture("night"))])).latent[0].numpy()
    assert np.allclose(draw(crops[0], "night", None), expected, atol=2e-2)
    urls = [str(path) for path in sorted((tmp_path / "pack" / "shards").glob("*.tar"))]
    assert len(urls) == 2
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    assert [sample["__key__"] for sample in samples] == [crop.key for crop in crops]
    assert all(np.array_equal(sample["npy"], crop.latents) for sample, crop in zip(samples, crops, strict=True))


def test_a_posterior_is_kept_as_mean_and_log_variance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    folder = make_pairs(tmp_path)
    pack.write_shard(vae, find_pairs(folder / "pairs")[:1], tmp_path / "latents-00000.tar", "no")
    (crop,) = pack.read_shards(tmp_path)
    assert crop.posterior
    assert crop.latents.shape[1] == 4
    drawn = np.stack([draw(crop, "source", np.random.default_rng(seed)) for seed in range(64)])
    assert np.allclose(drawn.mean(0), draw(crop, "source", None), atol=5 * drawn.std() / 8)
    assert drawn.std(0).mean() > 0


def packed_one_a_shard(tmp_path: Path) -> list[Path]:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    for number, pair in enumerate(find_pairs(make_pairs(tmp_path) / "pairs")):
        pack.write_shard(vae, [pair], tmp_path / f"latents-{number:05d}.tar", "no")
    return sorted(tmp_path.glob("latents-*.tar"))


def test_a_damaged_crop_is_named_and_another_stands_in_its_place(tmp_path: Path) -> None:
    shards, before = packed_one_a_shard(tmp_path), pack.read_shards(tmp_path)
    data = bytearray(shards[1].read_bytes())
    data[pack.places_in(shards[1])[0].begin + 200] ^= 1  # one bit of one number
    shards[1].write_bytes(data)
    with pytest.raises(BrokenSampleError, match=r"latents-00001\.tar crop \S+: its latents do not fit"):
        pack.read_shards(tmp_path)
    crops, broken = pack.read_whole(tmp_path, tmp_path / "stage", 0.5)
    assert (broken, [crop.key for crop in crops]) == (1, [before[0].key, before[2].key, before[2].key])
    assert before[1].key in (tmp_path / "stage" / "broken.jsonl").read_text()
    with pytest.raises(RecipeError, match="1 of 3 samples are broken, more than 0 may be left out"):
        pack.read_whole(tmp_path, tmp_path / "strict", 0.0)


def test_a_shard_of_latents_that_was_cut_short_is_named_and_an_older_one_is_believed(tmp_path: Path) -> None:
    shards = packed_one_a_shard(tmp_path)
    older = pack.places_in(shards[0])[0]
    data = shards[0].read_bytes().replace(b'"crc"', b'"_rc"')
    shards[0].write_bytes(data[: older.begin + 200] + b"\0" + data[older.begin + 201 :])
    assert pack.read_shards(tmp_path)[0].key == older.key
    shards[2].write_bytes(data[: older.begin - 700])
    with pytest.raises(RecipeError, match=r"latents-00002\.tar: is no whole tar") as caught:
        pack.read_shards(tmp_path)
    assert "made again" in str(caught.value.hint)


def test_folding_the_statistics_in_standardises_latents_exactly() -> None:
    vae = small_dc()
    pictures = torch.rand(6, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = vae.encode(pictures).latent
        mean, deviation = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
        fold_standardisation(vae, pictures)
        assert torch.allclose(vae.encode(pictures).latent, (raw - mean) / deviation, atol=1e-4)


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(to_tensor(list(pixels))), pixels)
