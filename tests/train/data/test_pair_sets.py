"""Training pairs in every form that they come in, and what is said where one is broken."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from tiny_models import make_picture

from ip2pbatch.errors import NothingMatchedError, RecipeError, ResourceError, UsageError
from ip2pbatch.measures.clip import Similarities
from ip2pbatch.plan.shard import Shard
from ip2pbatch.train.data import pack_pictures as shards
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs
from ip2pbatch.train.data.released import Prompt, Sample, write_prompt

SEEDS = ((3, 8), (5,), (1, 2, 9))


def make_dataset(root: Path) -> Path:
    """Three prompts with two, one and three pairs, in the released layout."""
    for number, seeds in enumerate(SEEDS):
        prompt = Prompt(number, f"house {number}", f"make it snow {number}", f"house {number} in snow", "http://x/1")
        samples = [Sample(seed, 0.5, 9.0, Similarities(0.3, 0.3, 0.25, 0.8)) for seed in seeds]
        pictures = {seed: (make_picture(seed), make_picture(seed + 50)) for seed in seeds}
        write_prompt(root / "dataset", prompt, samples, pictures)
    return root


def pack(source: Path, folder: Path, **settings: object) -> Path:
    config = shards.Config(maker="pictures", **settings)
    assert shards.run(config, {"filter": source}, folder, None)
    return folder


def contents(pairs: PairSet) -> list[tuple[str, tuple[str, str] | None, list[bytes]]]:
    return [
        (
            pairs.instruction(prompt),
            pairs.captions(prompt),
            [picture.tobytes() for pair in pairs.pairs(prompt) for picture in pairs.pictures(pair)],
        )
        for prompt in range(len(pairs))
    ]


def parquet(path: Path, rows: int = 5, group: int = 2, **renamed: str) -> Path:
    """Rows as `datasets` writes them: pictures as structs of bytes and path."""

    def cell(seed: int) -> dict[str, object]:
        stream = io.BytesIO()
        Image.fromarray(make_picture(seed)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    columns = {
        "input_image": [cell(row) for row in range(rows)],
        "edit_prompt": [f"edit {row}" for row in range(rows)],
        "edited_image": [cell(row + 50) for row in range(rows)],
    }
    pq.write_table(pa.table({renamed.get(name, name): values for name, values in columns.items()}), path, group)
    return path


def test_shards_hold_what_the_folders_held(tmp_path: Path) -> None:
    folders = open_pairs(make_dataset(tmp_path / "filter"))
    packed = open_pairs(pack(tmp_path / "filter", tmp_path / "pack", prompts_per_shard=2))
    assert len(list((tmp_path / "pack" / "shards").glob("*.tar"))) == 2
    assert [len(packed.pairs(prompt)) for prompt in range(3)] == [2, 1, 3]
    assert contents(packed) == contents(folders)
    assert sorted(pair for prompt in range(3) for pair in packed.pairs(prompt)) == list(range(6))
    row = packed.store.row(0)
    assert row == {
        "input": "house 0", "edit": "make it snow 0", "output": "house 0 in snow", "url": "http://x/1", "seed": 3,
        "p2p_threshold": 0.5, "cfg_scale": 9.0,
        "clip_sim_0": 0.3, "clip_sim_1": 0.3, "clip_sim_dir": 0.25, "clip_sim_image": 0.8,
    }  # fmt: skip


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_shards_are_webdataset(tmp_path: Path) -> None:
    pack(make_dataset(tmp_path / "filter"), tmp_path / "pack")
    urls = [str(path) for path in (tmp_path / "pack" / "shards").glob("*.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil"))
    assert [sample["__key__"] for sample in samples][:3] == ["0000000-3", "0000000-8", "0000001-5"]
    expected = open_pairs(tmp_path / "filter").pictures(1)
    assert [samples[1][f"{side}.jpg"].tobytes() for side in (0, 1)] == [picture.tobytes() for picture in expected]
    assert samples[1]["json"]["edit"] == "make it snow 0"


def test_packing_goes_on_where_it_was_and_in_parts(tmp_path: Path) -> None:
    make_dataset(tmp_path / "filter")
    config, inputs = shards.Config(maker="pictures", prompts_per_shard=1), {"filter": tmp_path / "filter"}
    assert shards.run(config, inputs, tmp_path / "pack", None, Shard(1, 2)) is None
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "pack").rglob("*.tar")}
    assert len(first) == 2
    next(iter(first)).with_suffix(".index").unlink()
    assert shards.run(config, inputs, tmp_path / "pack", None, None) == pytest.approx(
        {"prompts": 3, "pairs": 6, "broken": 0, "shards": 3, "GB": 0}, abs=1e-3
    )
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "pack").rglob("*.tar")}
    assert sum(again[path] == when for path, when in first.items()) == 1
    assert not list((tmp_path / "pack").rglob("*.partial"))
    assert len(open_pairs(tmp_path / "pack")) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_no_half_shard_and_the_next_run_goes_on(tmp_path: Path) -> None:
    make_dataset(tmp_path / "filter")
    (tmp_path / "pack" / "shards").mkdir(parents=True)
    (tmp_path / "pack" / "shards" / "pairs-00000.partial").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="disk is full"):
        pack(tmp_path / "filter", tmp_path / "pack")
    assert not list((tmp_path / "pack" / "shards").iterdir())
    assert len(open_pairs(pack(tmp_path / "filter", tmp_path / "pack"))) == 3


def test_shards_of_others_need_no_index(tmp_path: Path) -> None:
    pack(make_dataset(tmp_path / "filter"), tmp_path / "pack")
    expected = contents(open_pairs(tmp_path / "pack"))
    for path in (tmp_path / "pack" / "shards").glob("*.index"):
        path.unlink()
    assert contents(open_pairs(tmp_path / "pack")) == expected
    assert contents(open_pairs(tmp_path / "pack" / "shards")) == expected


def test_a_corrupt_shard_is_named(tmp_path: Path) -> None:
    pack(make_dataset(tmp_path / "filter"), tmp_path / "pack")
    (path,) = (tmp_path / "pack" / "shards").glob("*.tar")
    whole = path.read_bytes()
    pairs = open_pairs(tmp_path / "pack")
    start = int(pairs.store.shards[0].places[2, 1, 0])
    path.write_bytes(whole[:start] + b"\0" * 64 + whole[start + 64 :])
    with pytest.raises(RecipeError, match=r"pairs-00000.tar sample 0000001-5: its 1.jpg does not fit") as caught:
        open_pairs(tmp_path / "pack").pictures(2)
    assert "shard again" in str(caught.value.hint)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"pairs-00000.tar: has \d+ bytes where"):
        open_pairs(tmp_path / "pack")
    path.with_suffix(".index").unlink()
    for size in (len(whole) // 2, int(pairs.store.shards[0].places[-1].max()) + 5, 700, 100, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(RecipeError, match=r"pairs-00000.tar"):
            open_pairs(tmp_path / "pack")


def test_a_sample_that_lacks_a_file_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in ("a-1.0.jpg", "a-1.json"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(RecipeError, match=r"odd.tar: sample a-1 has no 1.jpg"):
        open_pairs(tmp_path)


def test_parquet_is_read_with_the_columns_of_either_kind(tmp_path: Path) -> None:
    for number, names in enumerate(({}, {"input_image": "source_img", "edit_prompt": "instruction",
                                         "edited_image": "target_img"})):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        parquet(tmp_path / str(number) / "train-0.parquet", **names)
        parquet(tmp_path / str(number) / "train-1.parquet", rows=1, **names)
        pairs = open_pairs(tmp_path / str(number))
        assert len(pairs) == 6
        assert [pairs.instruction(prompt) for prompt in (4, 0, 5)] == ["edit 4", "edit 0", "edit 0"]
        assert pairs.captions(0) is None
        before, after = pairs.pictures(*pairs.pairs(3))
        assert np.array_equal(np.asarray(before), make_picture(3))
        assert np.array_equal(np.asarray(after), make_picture(53))
    packed = open_pairs(pack(tmp_path / "0", tmp_path / "pack"))
    assert contents(packed) == contents(open_pairs(tmp_path / "0"))
    assert len(packed) == 6


def test_of_a_hubs_snapshot_the_training_split_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 4)):
        parquet(tmp_path / "data" / f"{name}.parquet", rows=rows)
    assert len(open_pairs(tmp_path)) == 5
    assert len(open_pairs(tmp_path / "data" / "test-00000-of-00001.parquet")) == 4


def test_bad_parquet_is_named_with_its_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", edited_image="edited")
    with pytest.raises(RecipeError, match=r"x.parquet: has no column edited_image or target_img") as caught:
        open_pairs(tmp_path)
    assert "edited" in str(caught.value.hint)
    path.write_bytes(parquet(path).read_bytes()[:-20])
    with pytest.raises(RecipeError, match=r"x.parquet: is no whole parquet file"):
        open_pairs(path)
    whole = parquet(path).read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(RecipeError, match=r"x.parquet: row group 0 cannot be read"):
        open_pairs(path).pictures(0)
    table = {"input_image": ["a.jpg"], "edit_prompt": ["b"], "edited_image": ["c.jpg"]}
    pq.write_table(pa.table(table), path)
    with pytest.raises(RecipeError, match=r"x.parquet row 0: has no picture in it"):
        open_pairs(path).pictures(0)


def test_splits_and_fractions_are_the_papers(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", rows=39, group=20)
    pairs = open_pairs(tmp_path)
    sizes = [len(pairs.part(name)) for name in ("train", "val", "test", "all")]
    assert sizes == [35, 2, 2, 39]  # floor(0.9 · 39) = 35, floor(0.95 · 39) = 37
    assert pairs.part("val").instruction(0) == "edit 35"
    tenth = pairs.part("train").fraction(0.1)
    assert [tenth.instruction(prompt) for prompt in range(len(tenth))] == ["edit 0", "edit 8", "edit 17", "edit 26"]
    assert len(pairs.fraction(1e-6)) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError):
        open_pairs(tmp_path)
    with pytest.raises(UsageError, match="nothing to pack"):
        shards.run(shards.Config(maker="pictures"), {}, tmp_path / "pack", None)
    make_dataset(tmp_path)
    (tmp_path / "dataset" / "seeds.json").write_text(json.dumps([["0000000", [3, 4]]]))
    pairs = open_pairs(tmp_path)
    with pytest.raises(RecipeError, match=r"4_0.jpg: cannot be read"):
        pairs.pictures(1)


def captioned(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows of (caption, instruction) as the hub's copy of the filtered set has them."""

    def cell(seed: int) -> dict[str, object]:
        stream = io.BytesIO()
        Image.fromarray(make_picture(seed)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    columns = {
        "original_prompt": [caption for caption, _ in rows],
        "original_image": [cell(row) for row in range(len(rows))],
        "edit_prompt": [edit for _, edit in rows],
        "edited_prompt": [f"{caption} {edit}" for caption, edit in rows],
        "edited_image": [cell(row + 50) for row in range(len(rows))],
    }
    pq.write_table(pa.table(columns), path, 2)
    return path


def test_rows_of_one_prompt_weigh_as_one_prompt_as_in_the_original(tmp_path: Path) -> None:
    rows = [("cat", "snow"), ("dog", "rain"), ("cat", "snow"), ("cat", "rain"), ("cat", "snow")]
    pairs = open_pairs(captioned(tmp_path / "train.parquet", rows))
    assert [list(pairs.pairs(prompt)) for prompt in range(len(pairs))] == [[0, 2, 4], [1], [3]]
    assert [pairs.store.key(pair) for pair in range(5)] == [
        "0000000-0", "0000001-0", "0000000-1", "0000002-0", "0000000-2",
    ]  # fmt: skip
    assert pairs.captions(2) == ("cat", "cat rain")
    assert [list(group) for group in pairs.each_pair().prompts] == [[0], [2], [4], [1], [3]]
    packed = open_pairs(pack(tmp_path, tmp_path / "pack"))
    assert [len(packed.pairs(prompt)) for prompt in range(len(packed))] == [3, 1, 1], "and so they are packed"


def test_rows_without_captions_are_prompts_of_their_own(tmp_path: Path) -> None:
    pairs = open_pairs(parquet(tmp_path / "x.parquet", rows=3, edit_prompt="instruction", input_image="source_img"))
    assert [list(pairs.pairs(prompt)) for prompt in range(len(pairs))] == [[0], [1], [2]]
