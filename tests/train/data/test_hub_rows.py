"""Data sets of the hub: read a file at a time at one commit, which is the first read's, from a hub on this machine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command import CommandLine
from local_hub import LocalHub, serving
from PIL import Image
from tiny_models import make_picture, make_text_encoder, make_tokenizer, make_vae

from ip2pbatch.disk.remembered import cache_folder
from ip2pbatch.errors import ModelError, NothingMatchedError
from ip2pbatch.train.data import hub_rows, pack_pictures
from ip2pbatch.train.data.columns import PRESETS, Columns
from ip2pbatch.train.data.hub_rows import HELD, MIXED, chosen
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs
from ip2pbatch.train.fit.edit_batches import Caches, EditBatches, Place, View
from ip2pbatch.train.fit.latents import Encoder, LatentCache
from ip2pbatch.train.model_names import HubSet
from ip2pbatch.train.stages import run, status

FILES = HELD + 3
SET = "owner/set"


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(hub_rows, "_WAIT", 0.0)
    with serving(monkeypatch) as found:
        yield found


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(make_picture(seed)).save(stream, "PNG")
    return stream.getvalue()


def parquet(first: int, rows: int = 3) -> bytes:
    """Rows in MagicBrush's layout."""
    numbers, stream = range(first, first + rows), io.BytesIO()
    columns = {"source_img": [{"bytes": png(2 * n), "path": None} for n in numbers],
               "target_img": [{"bytes": png(2 * n + 1), "path": None} for n in numbers],
               "instruction": [f"edit {n}" for n in numbers]}  # fmt: skip
    pq.write_table(pa.table(columns), stream, row_group_size=2)
    return stream.getvalue()


def magicbrush(first: int = 0) -> dict[str, bytes]:
    files = {f"data/train-{number:05d}-of-00009.parquet": parquet(first + 3 * number) for number in range(FILES)}
    return {"README.md": b"a card", **files, "data/dev-00000-of-00001.parquet": parquet(900)}


def seen(pairs: PairSet) -> list[tuple[str, bytes, bytes]]:
    numbers = [pair for prompt in range(len(pairs)) for pair in pairs.pairs(prompt)]
    return [(pairs.instruction(prompt), *pairs.store.files(pair)) for prompt, pair in enumerate(numbers)]


def kept() -> list[Path]:
    found = (cache_folder() / "hub").rglob("*")
    return [path for path in found if path.suffix in (".parquet", ".tar") and path.is_file()]


def pack_config(folder: Path, **changed: object) -> Path:
    written = {"stage": "pack", "maker": "pictures", "source": SET, "columns": "magicbrush", "prompts_per_shard": 7}
    (folder / "pack.yaml").write_text(yaml.safe_dump(written | changed))
    return folder / "pack.yaml"


def test_a_set_of_the_hub_is_what_its_files_are_and_each_is_fetched_once(local: LocalHub, tmp_path: Path) -> None:
    local.put(SET, magicbrush())
    pairs = open_pairs(HubSet(SET), PRESETS["magicbrush"])
    assert len(pairs) == 3 * FILES
    assert local.whole == [], "counted by the files' ends alone"
    assert {name for name, _ in local.ranges} == {name for name in magicbrush() if "train" in name}
    for name, data in magicbrush().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    here = open_pairs(tmp_path, PRESETS["magicbrush"])
    assert seen(pairs) == seen(here)
    assert local.whole == sorted(name for name in magicbrush() if "train" in name)
    assert len(kept()) == HELD
    assert pairs.store.digest() == here.store.digest(), "a cache of latents serves both"
    assert "owner/set@" in pairs.store.place(4)
    assert pairs.store.place(4).endswith("data/train-00001-of-00009.parquet row 1")
    local.ranges.clear()
    assert len(open_pairs(HubSet(SET), PRESETS["magicbrush"])) == 3 * FILES
    assert local.ranges == [], "rows are counted once"


def test_texts_of_prompts_are_read_where_they_lie(local: LocalHub) -> None:
    table = {"original_prompt": ["a hill"] * 4, "edited_prompt": ["a snowy hill"] * 4, "edit_prompt": ["snow"] * 4,
             "original_image": [{"bytes": bytes(200_000)}] * 4,
             "edited_image": [{"bytes": bytes(200_000)}] * 4}  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream, compression="none", use_dictionary=False)
    local.put(SET, {"data/train-0.parquet": stream.getvalue()})
    assert open_pairs(HubSet(SET)).prompts == [[0, 1, 2, 3]], "named as InstructPix2Pix's are, and one prompt"
    assert local.whole == []
    assert sum(length for _, length in local.ranges) < 200_000, "of 1.6 million"


def test_tars_are_fetched_and_read_by_their_columns(local: LocalHub) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in (("1.a.png", png(1)), ("1.b.png", png(2)), ("1.txt", b"snow")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    local.put(SET, {"00000.tar": stream.getvalue()})
    pairs = open_pairs(HubSet(SET), Columns(source="a.png", edited="b.png", instruction="txt"))
    assert seen(pairs) == [("snow", png(1), png(2))]
    with pytest.raises(NothingMatchedError, match=r"has no x/\*\.tar"):
        open_pairs(HubSet(SET), Columns(source="a.png", edited="b.png", instruction="txt", files="x/*.tar"))


def test_files_are_chosen_as_in_a_folder() -> None:
    names = ["a/b/c.parquet", "data/test-0.parquet", "data/train-0.parquet", "x.zip"]
    assert chosen(names, None) == ["data/train-0.parquet"]
    assert chosen(names, "data/*.parquet") == ["data/test-0.parquet", "data/train-0.parquet"]
    assert chosen(names, "**/*.parquet") == names[:3]
    assert chosen(["a/b/c.parquet", "x.zip"], None) == ["a/b/c.parquet"]
    assert chosen(["data/train-0.parquet", "00.tar", "x.tar"], None) == ["00.tar", "x.tar"]


def test_the_first_read_pins_the_commit_for_all_stages(
    local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.put(SET, magicbrush())
    config, out = pack_config(tmp_path), tmp_path / "out"
    write, stop = pack_pictures.write_shard, iter([False, True])

    def interrupted(*arguments: object) -> None:
        if next(stop):
            raise KeyboardInterrupt
        write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(pack_pictures, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, out=out)
    local.put(SET, magicbrush(500))
    (made,) = run(config, out=out)
    assert made.state == "fresh"
    assert [text for text, *_ in seen(open_pairs(made.folder))] == [f"edit {n}" for n in range(3 * FILES)]
    assert json.loads((out / "revisions.json").read_text()) == {SET: first}
    record = json.loads((made.folder / "done.json").read_text())
    assert record["settings"]["source"] == f"hub:{first}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert status(config, out=out)[0].state == "fresh", "known without a network"
    (out / "revisions.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (again,) = run(config, out=out)
    assert again.folder != made.folder
    assert seen(open_pairs(again.folder))[0][0] == "edit 500"


def test_an_epoch_takes_few_files_at_a_time_and_every_prompt_once(local: LocalHub, tmp_path: Path) -> None:
    local.put(SET, magicbrush())
    pairs = open_pairs(HubSet(SET), PRESETS["magicbrush"])
    encoder = Encoder(make_vae("kl"), make_text_encoder(), make_tokenizer(), torch.device("cpu"))
    walk = EditBatches(pairs, encoder, View(32, (32, 32), seed=3), Caches(LatentCache(None, 0, 0, (0, 0, 0)), None),
                       Place(4), readers=2)  # fmt: skip
    try:
        order = [walk.draw(position).prompt for position in range(2 * len(pairs))]
        epoch, other = order[: len(pairs)], order[len(pairs) :]
        assert sorted(epoch) == sorted(other) == list(range(len(pairs)))
        assert epoch != other
        files = [prompt // 3 for prompt in epoch]
        assert len(set(files[: 3 * MIXED])) == MIXED
        assert files[: 3 * MIXED] != sorted(files[: 3 * MIXED], key=files.index), "mixed among themselves"
        for part in range(len(pairs) // 4):
            walk(part)
    finally:
        walk.close()
    assert len(local.whole) <= FILES + MIXED, "a file is fetched once an epoch; the next one is read ahead"
    assert len(kept()) <= HELD


def test_a_file_that_does_not_come_is_asked_for_again_and_then_ends_it(local: LocalHub) -> None:
    local.put(SET, magicbrush())
    pairs = open_pairs(HubSet(SET), PRESETS["magicbrush"])
    local.failing = 2
    assert pairs.store.files(0) == (png(0), png(1))
    local.failing = 100
    with pytest.raises(ModelError, match=r"train-00002-of-00009\.parquet cannot be fetched") as caught:
        pairs.store.files(6)
    assert caught.value.exit_code == 6
    assert "checkpoints" in str(caught.value.hint)


def test_a_file_that_another_process_removed_is_fetched_again(local: LocalHub) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("1.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"snow"))
    local.put(SET, {"00000.tar": stream.getvalue()})
    pairs = open_pairs(HubSet(SET), Columns(source="txt", edited="txt", instruction="txt"))
    for path in kept():
        path.unlink()
    assert pairs.instruction(0) == "snow"
    assert local.whole == ["00000.tar"] * 2


@pytest.mark.parametrize("words", [["validate"], ["plan", "--out", "out"]])
def test_validate_and_plan_ask_for_it_or_say_that_they_could_not(
    local: LocalHub, tmp_path: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    local.put(SET, magicbrush())
    local.put("owner/closed", magicbrush())
    local.gated.add("owner/closed")
    for source, code, said in (
        ("owner/closed", 6, "the data set owner/closed is gated, and not open to you"),
        ("owner/absent", 6, "the hub has no data set owner/absent"),
        (f"{SET}@v9", 6, f"no revision v9 of {SET}"),
        (SET, 0, ""),
    ):
        done = command("train", words[0], str(pack_config(tmp_path, source=source)), *words[1:])
        assert done.code == code, done.err
        assert said in done.err
        assert "not checked" not in done.err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    local.put(SET, magicbrush())
    done = command("train", words[0], str(pack_config(tmp_path)), *words[1:])
    assert done.code == 0
    assert f"pack.yaml: source: {SET} is not checked: no network" in done.err
    assert words[0] == "validate" or f"the rows of {SET} are counted when it is read" in " ".join(done.out.split())
    done = command("train", "run", str(tmp_path / "pack.yaml"), "--out", str(tmp_path / "out"))
    assert done.code == 6
    assert f"{SET} was never read here, and the hub is not reachable" in done.err


def test_what_is_no_set_of_the_hub_is_a_path_and_archives_are_refused(tmp_path: Path, command: CommandLine) -> None:
    (tmp_path / "sets").mkdir()
    done = command("train", "validate", str(pack_config(tmp_path, source="sets/mine")))
    assert done.code == 2
    assert f"there is nothing at {tmp_path}/sets/mine" in done.err
    assert "a data set of the hub is written sets/mine@main" in done.err
    done = command("train", "validate", str(pack_config(tmp_path, source="owner/set", columns="imgedit")))
    assert done.code == 2
    assert "pictures that lie beside a set of the hub, packed, are not read there" in done.err
