"""The released files: what is written is what the authors' code reads, and what they wrote is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import make_picture

from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.measures.clip import Similarities
from ip2pbatch.plan.shard import Shard
from ip2pbatch.train.data.released import (
    Prompt,
    Sample,
    prompt_folders,
    read_prompt_folder,
    read_prompts,
    read_seeds,
    write_prompt,
    write_seeds,
)

PROMPT = Prompt(12, "a house", "make it snow", "a house in snow", "http://example.org/1.jpg")


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return make_picture(seed), make_picture(seed + 100)


def released(root: Path, name: str, seeds: list[int], prompt: dict[str, object], metadata: str | None = None) -> Path:
    """A folder as the authors' scripts write it, without our code."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "prompt.json").write_text(json.dumps(prompt))
    for seed in seeds:
        for side in (0, 1):
            Image.fromarray(pair(seed)[side]).save(folder / f"{seed}_{side}.jpg", quality=100)
    if metadata is not None:
        (folder / "metadata.jsonl").write_text(metadata)
    return folder


def test_a_prompt_folder_is_what_the_authors_scripts_expect(tmp_path: Path) -> None:
    samples = [Sample(7, 0.25, 9.5, Similarities(0.25, 0.3, 0.2, 0.8)), Sample(3, 0.5, 8.0)]
    folder = write_prompt(tmp_path, PROMPT, samples, {7: pair(7)})
    assert folder.name == "0000012"
    assert sorted(one.name for one in folder.iterdir()) == ["7_0.jpg", "7_1.jpg", "metadata.jsonl", "prompt.json"]
    prompt = json.loads((folder / "prompt.json").read_text())
    assert (prompt["input"], prompt["edit"], prompt["output"]) == ("a house", "make it snow", "a house in snow")
    first = json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])
    assert first == {
        "seed": 7, "p2p_threshold": 0.25, "cfg_scale": 9.5,
        "clip_sim_0": 0.25, "clip_sim_1": 0.3, "clip_sim_dir": 0.2, "clip_sim_image": 0.8,
    }  # fmt: skip
    found = read_prompt_folder(folder)
    assert (found.prompt, found.samples, found.pictured) == (PROMPT, tuple(samples), {7})
    assert np.abs(np.asarray(Image.open(found.picture(7, 1))).astype(int) - pair(7)[1]).mean() < 2
    before = (folder / "prompt.json").stat().st_mtime_ns
    write_prompt(tmp_path, PROMPT, [], {})
    assert (folder / "prompt.json").stat().st_mtime_ns == before, "what is there is finished"


def test_what_a_kill_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".0000012").mkdir()
    (tmp_path / ".0000012" / "9_0.jpg").write_bytes(b"half")
    assert not list(tmp_path.glob("[0-9]*"))
    folder = write_prompt(tmp_path, PROMPT, [Sample(7)], {7: pair(7)})
    assert read_prompt_folder(folder).pictured == {7}
    assert [one.name for one in tmp_path.iterdir()] == ["0000012"]


def test_released_folders_are_read_whatever_key_the_caption_has(tmp_path: Path) -> None:
    line = '{"seed": 5, "p2p_threshold": 0.3, "cfg_scale": 8, "clip_sim_0": 0.2, "more": 1}\n'
    for name, key in (("0000000", "input"), ("0000001", "caption")):
        released(tmp_path, name, [5, 6], {key: "a cat", "edit": "as a dog", "output": "a dog"}, line + line)
    released(tmp_path, "0000002", [], {"caption": "a cat", "edit": "as a dog", "output": "a dog"})
    for folder in prompt_folders(tmp_path)[:2]:
        found = read_prompt_folder(folder)
        assert found.prompt.captions == ("a cat", "a dog")
        assert [one.seed for one in found.samples] == [5, 6], "a line appended twice counts once"
        assert found.samples[0].extra == {"more": 1}
        assert found.samples[0].similarities is None, "not all of its scores are there"
    assert read_seeds(tmp_path) == [("0000000", [5, 6]), ("0000001", [5, 6])]
    write_seeds(tmp_path, {"0000001": [6, 5], "0000000": [6, 5], "0000002": []})
    assert json.loads((tmp_path / "seeds.json").read_text()) == [["0000000", [5, 6]], ["0000001", [5, 6]]]
    assert read_seeds(tmp_path) == [("0000000", [5, 6]), ("0000001", [5, 6])]


def test_shards_are_the_whole_and_share_nothing(tmp_path: Path) -> None:
    for number in range(7):
        write_prompt(tmp_path, Prompt(number, "a", "b", "c"), [Sample(1)], {})
    parts = [prompt_folders(tmp_path, Shard(k, 3)) for k in (1, 2, 3)]
    assert sorted(one for part in parts for one in part) == prompt_folders(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('{"input": "a", "edit": "b", "output": "c"}\n{"input": "a", "edit": "b", "outp', 2, "cut short"),
        ('{"input": "a", "edit": "b", "output": "c"}\nnull\n', 2, "not an object"),
        ('{"input": "a", "edit": "b"}\n', 1, "output"),
        ('\n{"text": "a", "edit": "b", "output": "c"}\n', 2, "input"),
        ('{"input": "a", "edit": " ", "output": "c"}\n', 1, "edit"),
    ],
)
def test_a_bad_line_is_named_with_its_place(tmp_path: Path, text: str, line: int, said: str) -> None:
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_prompts(tmp_path / "captions.jsonl")
    assert f"captions.jsonl:{line}:" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError):
        prompt_folders(tmp_path / "nowhere")
    with pytest.raises(NothingMatchedError):
        prompt_folders(tmp_path)
    folder = released(tmp_path, "0000000", [5], {"input": "a", "edit": "b", "output": "c"}, '{"seed": 5}\n{"se')
    with pytest.raises(RecipeError, match=r"metadata.jsonl:2:.*cut short"):
        read_prompt_folder(folder)
    (folder / "metadata.jsonl").write_text('{"p2p_threshold": 5}\n')
    with pytest.raises(RecipeError, match=r"metadata.jsonl:1:.*seed"):
        read_prompt_folder(folder)
    (folder / "prompt.json").write_text('{"input": "a"}')
    with pytest.raises(RecipeError, match=r"prompt.json:1:.*edit"):
        read_prompt_folder(folder)
    (tmp_path / "seeds.json").write_text("[[1, 2]]")
    with pytest.raises(RecipeError, match=r"seeds.json"):
        read_seeds(tmp_path)
