"""Sets of edits in the layouts in which they were published, made small here, and what is said where one is amiss."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_models import make_picture

from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.train.configs import load_config
from ip2pbatch.train.data.broken import BrokenSampleError
from ip2pbatch.train.data.columns import PRESETS, Columns
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(make_picture(seed)).save(stream, "PNG")
    return stream.getvalue()


def cell(seed: int) -> dict[str, object]:
    """A picture as `datasets` writes it."""
    return {"bytes": png(seed), "path": None}


def put(folder: Path, name: str, seed: int) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed))
    return name


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def instructpix2pix(root: Path) -> None:
    write_parquet(root / "data" / "train-00000-of-00001.parquet", {
        "original_prompt": ["a hill", "a lake"], "original_image": [cell(1), cell(3)], "edit_prompt": ["snow", "rain"],
        "edited_prompt": ["a snowy hill", "a rainy lake"], "edited_image": [cell(2), cell(4)],
    })  # fmt: skip


def magicbrush(root: Path) -> None:
    write_parquet(root / "data" / "train-00000-of-00001.parquet", {
        "img_id": ["7", "7"], "turn_index": [1, 2], "source_img": [cell(1), cell(3)], "mask_img": [cell(9), cell(9)],
        "instruction": ["snow", "rain"], "target_img": [cell(2), cell(4)],
    })  # fmt: skip


def ultraedit(root: Path) -> None:
    write_parquet(root / "data" / "FreeForm-00000-of-00001.parquet", {
        "clip_sim_source": [0.3, 0.3], "clip_sim_dir": [0.2, 0.2], "ssim": [0.5, 0.5],
        "source_caption": ["a hill", "a lake"], "target_caption": ["a snowy hill", "a rainy lake"], "idx": [0, 1],
        "edit_prompt": ["snow", "rain"], "source_image": [cell(1), cell(3)], "edited_image": [cell(2), cell(4)],
    })  # fmt: skip


def hq_edit(root: Path) -> None:
    write_parquet(root / "data" / "HQ-Edit_1.parquet", {
        "input": ["a hill", "a lake"], "input_image": [cell(1), cell(3)], "edit": ["snow", "rain"],
        "inverse_edit": ["melt", "dry"], "output": ["a snowy hill", "a rainy lake"], "output_image": [cell(2), cell(4)],
    })  # fmt: skip


def omniedit(root: Path) -> None:
    write_parquet(root / "data" / "train-00000-of-00001.parquet", {
        "omni_edit_id": ["task_obj_add_1", "task_obj_add_2"], "task": ["addition", "addition"],
        "src_img": [cell(1), cell(3)], "edited_img": [cell(2), cell(4)],
        "edited_prompt_list": [["snow", "Let snow fall on the hill"], ["rain"]], "o_score": [9.0, 9.0],
    })  # fmt: skip


def imgedit(root: Path) -> None:
    names = [put(root, f"results_add_part0/{seed}.png", seed) for seed in (1, 2, 3, 4)]
    write_parquet(root / "Parquet" / "add_part0.parquet", {
        "input_images": [[names[0]], [names[2]]], "output_images": [[names[1]], [names[3]]], "prompt": ["snow", "rain"],
    })  # fmt: skip


def imgedit_multiturn(root: Path) -> None:
    names = [put(root, f"results_content/{seed}.png", seed) for seed in (1, 2, 3, 4)]
    turns = [
        {"input_images": [names[0]], "output_images": [names[1]], "prompt": "snow"},
        {"input_images": [], "output_images": [], "prompt": "remember the hill"},
        {"input_images": [names[2]], "output_images": [names[3]], "prompt": "rain"},
    ]
    write_parquet(root / "Parquet" / "content_part0.parquet", {"data": [turns]})


def seed_data_edit(root: Path) -> None:
    names = [put(root / "images", f"{seed}.png", seed) for seed in (1, 2, 3, 4)]
    rows = [{"source_image": names[0], "target_image": names[1], "instruction": "snow"},
            {"source_image": names[2], "target_image": names[3], "instruction": "rain"}]  # fmt: skip
    write_lines(root / "annotations" / "split_0001.jsonl", rows)


def seed_data_edit_multiturn(root: Path) -> None:
    names = [put(root / "images", f"315P/Data/1/{seed}.png", seed) for seed in (1, 2, 4)]
    row = {"source_image": names[0], "instruction_1": "snow", "edit_image_1": names[1], "instruction_2": "rain",
           "edit_image_2": names[2]}  # fmt: skip
    write_lines(root / "annotations" / "split_0001.jsonl", [{**row, "instruction_2": ""}, row])


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "instructpix2pix": instructpix2pix, "magicbrush": magicbrush, "ultraedit": ultraedit, "hq-edit": hq_edit,
    "omniedit": omniedit, "imgedit": imgedit, "imgedit-multiturn": imgedit_multiturn,
    "seed-data-edit": seed_data_edit, "seed-data-edit-multiturn": seed_data_edit_multiturn,
}  # fmt: skip


def seen(pairs: PairSet) -> list[tuple[str, list[int]]]:
    """Each pair's instruction, and the seeds of its pictures."""
    known = {make_picture(seed).tobytes(): seed for seed in range(1, 10)}
    return [
        (
            pairs.instruction(prompt),
            [known[np.asarray(one).tobytes()] for one in pairs.pictures(pairs.pairs(prompt)[0])],
        )
        for prompt in range(len(pairs))
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_the_layout_that_was_published(tmp_path: Path, preset: str) -> None:
    LAYOUTS[preset](tmp_path)
    pairs = open_pairs(tmp_path, PRESETS[preset])
    if preset == "seed-data-edit-multiturn":
        assert seen(pairs) == [("snow", [1, 2]), ("snow", [1, 2]), ("rain", [2, 4])]
        assert pairs.store.place(2).endswith("split_0001.jsonl line 2 turn 2")
    else:
        assert seen(pairs) == [("snow", [1, 2]), ("rain", [3, 4])]
    captions = ("a lake", "a rainy lake") if PRESETS[preset].source_caption else None
    assert pairs.captions(1) == captions


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def webdataset(path: Path, says: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, (first, second) in enumerate(((1, 2), (3, 4))):
            add(tar, f"{number}.src_img.png", png(first))
            add(tar, f"{number}.edited_img.png", png(second))
            for name, data in says.items():
                add(tar, f"{number}.{name}", data)


@pytest.mark.parametrize(
    ("name", "data", "instruction"),
    [
        ("txt", b"snow\n", "txt"),
        ("edited_prompt_list.json", b'["snow", "let it snow"]', "edited_prompt_list.json"),
        ("json", b'{"prompt": "snow", "task": "addition"}', "prompt"),
    ],
)
def test_webdataset_of_others_is_read(tmp_path: Path, name: str, data: bytes, instruction: str) -> None:
    webdataset(tmp_path / "000.tar", {name: data})
    columns = Columns(source="src_img.png", edited="edited_img.png", instruction=instruction)
    assert seen(open_pairs(tmp_path, columns)) == [("snow", [1, 2]), ("snow", [3, 4])]


def test_what_is_amiss_is_named(tmp_path: Path) -> None:
    omniedit(tmp_path)
    with pytest.raises(RecipeError, match=r"train-00000-of-00001.parquet: has no column src_image") as caught:
        open_pairs(tmp_path, Columns(source="src_image", edited="edited_img", instruction="task"))
    assert "src_img" in str(caught.value.hint)
    with pytest.raises(NothingMatchedError, match=r"has no annotations/\*.jsonl"):
        open_pairs(tmp_path, PRESETS["seed-data-edit"])
    webdataset(tmp_path / "x.tar", {"txt": b"snow"})
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"x.tar: is (cut short|no whole tar)"):
        open_pairs(tmp_path / "x.tar", Columns(source="src_img.png", edited="edited_img.png", instruction="txt"))


def test_pictures_that_are_gone_or_too_many_are_broken_samples(tmp_path: Path) -> None:
    imgedit(tmp_path)
    (tmp_path / "results_add_part0" / "4.png").unlink()
    with pytest.raises(BrokenSampleError, match=r"add_part0.parquet row 1: its picture .*4.png cannot be read"):
        open_pairs(tmp_path, PRESETS["imgedit"]).pictures(1)
    several = {"input_images": [["a", "b"]], "output_images": [["c"]], "prompt": ["snow"]}
    write_parquet(tmp_path / "Parquet" / "add_part0.parquet", several)
    with pytest.raises(BrokenSampleError, match="row 0: has 2 pictures for one"):
        open_pairs(tmp_path, PRESETS["imgedit"]).pictures(0)


def test_a_cache_hangs_on_the_pictures_and_on_how_they_are_read(tmp_path: Path) -> None:
    imgedit(tmp_path)
    digest = open_pairs(tmp_path, PRESETS["imgedit"]).store.digest()
    turned = Columns(source="output_images", edited="input_images", instruction="prompt", images=".")
    assert open_pairs(tmp_path, turned).store.digest() != digest
    put(tmp_path, "results_add_part0/4.png", 5)
    assert open_pairs(tmp_path, PRESETS["imgedit"]).store.digest() != digest


CONFIG = "{stage: finetune, maker: stable_diffusion, start: models/sd, %s}"


def test_a_preset_is_the_mapping_that_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text(CONFIG % "data: d, columns: omniedit")
    preset = load_config(path).settings
    path.write_text(CONFIG % "data: d, columns: {source: src_img, edited: edited_img, instruction: edited_prompt_list}")
    assert load_config(path).settings == preset
    path.write_text(CONFIG % "data: d")
    assert "columns" not in json.loads(load_config(path).settings.model_dump_json()), "nothing is made anew"


def test_a_column_that_is_missing_is_found_before_anything_runs(tmp_path: Path) -> None:
    omniedit(tmp_path / "d")
    path = tmp_path / "finetune.yaml"
    path.write_text(CONFIG % "data: d, columns: ultraedit")
    with pytest.raises(RecipeError, match=r"finetune.yaml:1:\d+: columns: .*has no column source_image") as caught:
        load_config(path)
    assert caught.value.exit_code == 2
    path.write_text(CONFIG % "data: d, columns: omniedit")
    assert load_config(path).settings


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ("data: d, columns: omnied", "'omnied' is no preset", "omniedit"),
        ("data: d, columns: {source: a, edited: b}", "is missing", ""),
        ("columns: omniedit, inputs: {pack: pack.yaml}", "says how `data` is read", "data: FOLDER"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_its_place(
    tmp_path: Path, settings: str, said: str, hint: str
) -> None:
    (tmp_path / "pack.yaml").write_text("{stage: pack, maker: pictures, source: d}")
    (tmp_path / "finetune.yaml").write_text(CONFIG % settings)
    with pytest.raises(RecipeError, match=r"finetune.yaml:1:\d+") as caught:
        load_config(tmp_path / "finetune.yaml")
    assert said in str(caught.value)
    assert hint in str(caught.value.hint)
