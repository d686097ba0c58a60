"""Damaged samples: found though a decoder says nothing, named, counted, left out up to a bound, and then an end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TOKENS, WIDTH, make_picture, make_text_encoder, make_tokenizer, make_vae
from train_pairs import make_dataset

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data import pack_pictures
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut, flaw
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs
from ip2pbatch.train.data.row_store import RowStore
from ip2pbatch.train.fit.edit_batches import Caches, EditBatches, Place, View
from ip2pbatch.train.fit.latents import Encoder, LatentCache
from ip2pbatch.train.pairs import scores


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def zeroed(data: bytes, part: float = 1.0, end: int = 2) -> bytes:
    """A JPEG whose scan is zeros from the middle of its `part` on; its last bytes, the end's mark, stay."""
    scan = data.rfind(b"\xff\xda") + 14
    begin = len(data) - end - int(part * (len(data) - end - scan))
    return data[:begin] + bytes(len(data) - end - begin) + data[len(data) - end :]


PHOTO = make_picture(3, (160, 120))


@pytest.mark.parametrize("options", [{"quality": 100, "subsampling": 0}, {"quality": 90}, {"optimize": True}])
def test_zeroed_scans_are_found_that_a_decoder_takes_for_pictures(options: dict[str, object]) -> None:
    data = jpeg(PHOTO, **options)
    assert flaw(data) == ""
    for part in (1.0, 0.5):
        broken = zeroed(data, part)
        Image.open(io.BytesIO(broken)).load()  # not a word
        assert "zeros in its scan" in flaw(broken)


def test_cut_files_are_found_and_flat_pictures_are_whole() -> None:
    assert "has no end" in flaw(jpeg(PHOTO)[:-200])
    for grey in (0, 128, 255):
        for options in ({"optimize": True}, {"quality": 100}, {"progressive": True}):
            assert flaw(jpeg(np.full((600, 600, 3), grey, np.uint8), **options)) == ""
    boxed = np.zeros((900, 300, 3), np.uint8)  # a photo between two black fields
    boxed[400:520, 70:230] = PHOTO
    assert flaw(jpeg(boxed, optimize=True, quality=100)) == ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten prompts with one or two pairs of 64 px each."""
    return make_dataset(tmp_path / "pairs", prompts=10, side=64)


def damage(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "dataset" / name
        path.write_bytes(zeroed(path.read_bytes()))


def pack(source: Path, out: Path, broken: float) -> dict[str, float]:
    config = pack_pictures.Config(maker="pictures", broken=broken, prompts_per_shard=4)
    metrics = pack_pictures.run(config, {"pairs": source}, out, None)
    assert metrics is not None
    return metrics


def test_packing_names_and_leaves_out_what_is_broken(folder: Path, tmp_path: Path) -> None:
    damage(folder, "0000003/0_1.jpg", "0000004/0_0.jpg")
    (folder / "dataset" / "0000005" / "1_0.jpg").write_bytes(b"")
    found = pack(folder, tmp_path / "out", 0.5)
    assert (found["prompts"], found["pairs"], found["broken"]) == (9, 12, 3)
    named = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
    assert [Path(one["sample"]).parts[-2:] for one in named] == [
        ("0000003", "0"), ("0000004", "0"), ("0000005", "1"),
    ]  # fmt: skip
    assert "zeros in its scan" in named[0]["reason"]
    assert named[2]["reason"].endswith("is empty")
    with pytest.raises(RecipeError, match="2 of 15 samples are broken, more than 1 may be left out") as caught:
        pack(folder, tmp_path / "strict", 0.01)
    assert "broken.jsonl" in str(caught.value.hint)


def test_a_shard_knows_its_samples_by_checksums(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out", 0.0)
    pairs, before = open_pairs(tmp_path / "out"), open_pairs(tmp_path / "out").store.digest()
    shard = tmp_path / "out" / "shards" / "pairs-00000.tar"
    offset, length = pairs.store.shards[0].places[1, 1].tolist()  # type: ignore[attr-defined]
    data = bytearray(shard.read_bytes())
    data[offset + length // 2] ^= 1  # one bit of the second pair's picture after
    shard.write_bytes(data)
    pairs.pictures(0)
    with pytest.raises(BrokenSampleError, match=r"pairs-00000\.tar sample 0000001-0: its 1\.jpg does not fit"):
        pairs.pictures(1)
    index = shard.with_suffix(".index")
    note = json.loads(index.read_text())
    index.write_text(json.dumps({key: value for key, value in note.items() if key != "sums"}))
    assert open_pairs(tmp_path / "out").store.digest() != before, "an index of an older version has none"
    open_pairs(tmp_path / "out").store.files(1)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(make_vae("kl"), make_text_encoder(), make_tokenizer(), torch.device("cpu"))


def batches(encoder: Encoder, pairs: PairSet, cache: Path, left_out: LeftOut | None, place: Place) -> EditBatches:
    latents, texts = LatentCache(cache / "latents", 15, 1, (4, 4, 4)), RowStore(cache / "texts", 15, (TOKENS, WIDTH))
    return EditBatches(
        pairs, encoder, View(32, (32, 32), 0.5, 1), Caches(latents, texts), place, 2, left_out
    )  # fmt: skip


def test_training_goes_on_without_broken_samples_and_takes_the_same_ones_on_any_number_of_processes(
    folder: Path, tmp_path: Path, encoder: Encoder
) -> None:
    damage(folder, "0000003/0_1.jpg", "0000004/0_0.jpg")  # one of two pairs, and the only pair of its prompt
    pairs = open_pairs(folder)
    left_out = LeftOut(tmp_path, 15, 0.2)
    alone = batches(encoder, pairs, tmp_path / "a", left_out, Place(10))
    seen = [draw.pair for part in range(3) for draw in alone.prepare(part).draws]
    broken = {pairs.pairs(3)[0], pairs.pairs(4)[0]}
    assert len(seen) == 30
    assert not broken & set(seen)
    assert left_out.found == 2
    both = [batches(encoder, pairs, tmp_path / "b", LeftOut(tmp_path / "b", 15, 1.0), Place(5, n, 2)) for n in (0, 1)]
    parted = [draw.pair for part in range(3) for one in both for draw in one.prepare(part).draws]
    assert parted == seen
    strict = batches(encoder, pairs, tmp_path / "c", LeftOut(tmp_path / "c", 15, 0.0), Place(10))
    with pytest.raises(RecipeError, match="more than 0 may be left out"):
        [strict.prepare(part) for part in range(3)]
    for one in (alone, *both, strict):
        one.close()


def test_scores_leave_them_out_and_count_them(folder: Path, tmp_path: Path) -> None:
    damage(folder, "0000003/0_1.jpg")
    left_out = LeftOut(tmp_path, 15, 0.1)
    assert scores.load(folder / "dataset" / "0000003", left_out).seeds == [1]
    assert left_out.found == 1
    with pytest.raises(BrokenSampleError):
        scores.load(folder / "dataset" / "0000003")
