"""Captions from captions: what is asked about, what is accepted, and that a stop or a shard changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import CommandLine
from completion_server import Asked, completion_server
from pydantic import ValidationError
from tiny_language import save_language_model

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.errors import MissingError, ModelError, NothingMatchedError, RecipeError, UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.train import stages
from ip2pbatch.train.captions import generate
from ip2pbatch.train.captions.caption_files import choose, read_rows
from ip2pbatch.train.captions.generate import Config
from ip2pbatch.train.captions.language_model import Sampling
from ip2pbatch.train.data.released import read_prompts

WORDS = ["a house", "an unchanged tree", "two cats", "plain nonsense", "an endless road", "a rude man", "a boat"]


@pytest.fixture
def server() -> Iterator[Asked]:
    with completion_server() as asked:
        yield asked


def write_captions(path: Path, captions: Sequence[str] = WORDS, key: str = "TEXT") -> Path:
    rows = [{key: caption, "URL": f"http://x/{number}.jpg"} for number, caption in enumerate(captions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_for(server: Asked, captions: Path, **settings: object) -> Config:
    endpoint = {"url": server.url, "model": "writer", "wait": 0.0, "at_once": 2}
    return Config(maker="generate", captions=captions, endpoint=endpoint, batch=3, **settings)


def rows_in(folder: Path) -> list[dict[str, object]]:
    return [row for path in folder.glob("rows*.jsonl") for row in read_journal(path)]


def test_edits_are_accepted_and_the_others_counted_by_reason(tmp_path: Path, server: Asked) -> None:
    captions = write_captions(tmp_path / "laion.jsonl", [*WORDS, "a house", ""])
    metrics = generate.run(config_for(server, captions), {}, tmp_path / "out", None)
    prompts = read_prompts(tmp_path / "out" / "captions.jsonl")
    assert sorted(one.input for one in prompts) == ["a boat", "a house", "a rude man", "two cats"]
    assert next(one for one in prompts if one.input == "two cats").row() == {
        "input": "two cats", "edit": "make it snow", "output": "two cats in snow", "url": "http://x/2.jpg",
    }  # fmt: skip
    assert {key: metrics[key] for key in metrics if key != "tokens/s"} == {
        "rows": 7, "prompts": 4, "unchanged": 1, "unparsable": 1, "unfinished": 1, "empty": 1, "duplicate": 1,
    }  # fmt: skip
    assert metrics["tokens/s"] > 0
    assert sorted(server.captions()) == sorted(WORDS), "each once"
    asked = dict(server.bodies[0], prompt="", seed=0)
    assert asked == {
        "model": "writer", "prompt": "", "seed": 0, "max_tokens": 256, "temperature": 0.7, "top_p": 1.0,
        "frequency_penalty": 0.1, "presence_penalty": 0.0, "stop": ["\nEND"],
    }  # fmt: skip


def test_moderation_refuses_captions_and_answers(tmp_path: Path, server: Asked) -> None:
    captions = write_captions(tmp_path / "laion.jsonl")
    metrics = generate.run(config_for(server, captions, moderation="endpoint"), {}, tmp_path / "a", None)
    assert metrics["moderated"] == 1
    assert "a rude man" not in server.captions(), "a refused caption is not even asked about"
    config = config_for(server, captions, moderation="test_generate:snow_or_boats")
    metrics = generate.run(config, {}, tmp_path / "b", None)
    assert (metrics["prompts"], metrics["moderated"]) == (0, 4)
    assert (tmp_path / "b" / "captions.jsonl").read_bytes() == b""
    with pytest.raises(UsageError, match="cannot be imported"):
        generate.run(config_for(server, captions, moderation="no.such:thing"), {}, tmp_path / "c", None)


def snow_or_boats(texts: Sequence[str]) -> list[bool]:
    return ["boat" in text or "in snow" in text for text in texts]


def test_four_shards_one_killed_and_another_count_make_the_whole_once(tmp_path: Path, server: Asked) -> None:
    captions = write_captions(tmp_path / "laion.jsonl", [f"house number {number}" for number in range(23)])
    config, out = config_for(server, captions), tmp_path / "out"
    for index in (1, 2, 4):
        assert generate.run(config, {}, out, None, Shard(index, 4)) is None
    path = out / "rows-2of4.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # killed in the middle of a line
    assert not (out / "captions.jsonl").exists()
    assert generate.run(config, {}, out, None, Shard(2, 2)) is None
    assert generate.run(config, {}, out, None, Shard(1, 2))["prompts"] == 23
    assert sorted(row["row"] for row in rows_in(out)) == list(range(23)), "every row once"
    assert len(server.captions()) == 24, "only the torn one was asked about twice"
    generate.run(config, {}, tmp_path / "alone", None)
    assert (out / "captions.jsonl").read_bytes() == (tmp_path / "alone" / "captions.jsonl").read_bytes()


def test_the_authors_own_pairs_script_can_be_given_its_key(tmp_path: Path, server: Asked) -> None:
    captions = write_captions(tmp_path / "laion.jsonl", ["a house"])
    generate.run(config_for(server, captions, compat="original"), {}, tmp_path, None)
    assert list(json.loads((tmp_path / "captions.jsonl").read_text())) == ["caption", "edit", "output", "url"]
    assert read_prompts(tmp_path / "captions.jsonl")[0].input == "a house"


def test_a_limit_draws_the_same_rows_for_every_shard(tmp_path: Path) -> None:
    path = write_captions(tmp_path / "laion.jsonl", [f"house {number}" for number in range(50)])
    drawn, _ = choose(path, 10, seed=3)
    assert len(drawn) == 10
    assert drawn == choose(path, 10, seed=3)[0] != choose(path, 10, seed=4)[0]
    assert [row.number for row in drawn] == np.random.RandomState(3).permutation(50)[:10].tolist(), "as the original"
    every, _ = choose(path, None, seed=3)
    assert every[:10] == drawn
    assert sorted(row.number for row in every) == list(range(50))


def test_a_server_that_is_busy_is_asked_again_and_one_that_is_gone_loses_nothing(
    tmp_path: Path, server: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    captions = write_captions(tmp_path / "laion.jsonl")
    config = config_for(server, captions)
    server.failures = 2
    assert generate.run(config, {}, tmp_path / "a", None)["rows"] == 7
    assert {header["Authorization"] for header in server.headers} == {"Bearer a-key"}
    server.failures = 1000
    with pytest.raises(MissingError, match="does not answer") as caught:
        generate.run(config, {}, tmp_path / "b", None)
    assert "kept" in str(caught.value.hint)
    server.failures = 0
    assert generate.run(config, {}, tmp_path / "b", None)["prompts"] == 4
    server.refuses = True
    with pytest.raises(ModelError, match="401"):
        generate.run(config, {}, tmp_path / "c", None)


def test_examples_stand_before_a_caption_where_the_model_was_not_taught(tmp_path: Path, server: Asked) -> None:
    (tmp_path / "triplets.jsonl").write_text('{"input": "a", "edit": "b", "output": "c"}\n' * 9)
    captions = write_captions(tmp_path / "laion.jsonl", ["a house"])
    config = config_for(server, captions, examples=tmp_path / "triplets.jsonl", shots=2)
    assert generate.run(config, {}, tmp_path / "out", None)["prompts"] == 1
    assert server.bodies[0]["prompt"] == "a\n##\nb\n%%\nc\nEND\n\n" * 2 + "a house\n##\n"


def test_a_model_of_this_process_is_asked_in_batches_and_goes_on(tmp_path: Path) -> None:
    model = save_language_model(tmp_path / "lm", WORDS)
    captions = write_captions(tmp_path / "laion.jsonl")
    config = Config(maker="generate", captions=captions, model=str(model), sampling=Sampling(max_tokens=4), batch=4)
    metrics = generate.run(config, {}, tmp_path / "out", None)
    assert (metrics["rows"], metrics["prompts"], metrics["unfinished"]) == (7, 0, 7), "a random model writes no edit"
    assert metrics["tokens/s"] > 0
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    generate.run(config.model_copy(update={"batch": 2}), {}, tmp_path / "out", None)
    generate.run(config.model_copy(update={"batch": 1}), {}, tmp_path / "again", None)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before
    by_row = [{row["row"]: row for row in rows_in(tmp_path / name)} for name in ("out", "again")]
    assert by_row[0] == by_row[1], "a row's answer is its own, whatever is asked beside it"


def test_a_stage_is_split_and_finished_on_the_command_line(tmp_path: Path, server: Asked, command: CommandLine) -> None:
    write_captions(tmp_path / "laion.jsonl")
    text = "stage: captions\nmaker: generate\ncaptions: laion.jsonl\n"
    text += f"endpoint: {{url: {server.url}, model: writer, wait: 0}}\n"
    (tmp_path / "captions.yaml").write_text(text)
    run = ("train", "run", tmp_path / "captions.yaml", "--out", tmp_path / "out")
    assert command(*run, "--shard", "3/2").code == 2
    said = command(*run, "--shard", "1/2")
    assert (said.code, "missing" in said.out) == (0, True)
    assert re.search(r"\d accepted, \d rejected, \d+ tokens/s", said.err)
    said = command(*run, "--shard", "2/2")
    assert (said.code, "fresh" in said.out) == (0, True)
    (one,) = stages.status(tmp_path / "captions.yaml", out=tmp_path / "out")
    assert one.metrics["prompts"] == 4
    (tmp_path / "tokenizer.yaml").write_text("stage: tokenizer\ninputs: {captions: captions.yaml}\n")
    said = command("train", "run", tmp_path / "tokenizer.yaml", "--out", tmp_path / "out", "--shard", "1/2")
    assert said.code == 2
    assert "cannot be split" in said.err


def test_captions_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('URL,TEXT\nhttp://x/1,"a house, by the sea"\nhttp://x/2,"two\nlines"\n')
    pq.write_table(pa.table({"url": ["u", None], "caption": ["a cat", None]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"input": "a boat"}\n')
    found = [(row.number, row.caption, row.url) for row in read_rows(tmp_path)]
    assert found == [
        (0, "a house, by the sea", "http://x/1"),
        (1, "two lines", "http://x/2"),
        (2, "a cat", "u"),
        (3, "", None),
        (4, "a boat", None),
    ]


@pytest.mark.parametrize(
    ("name", "text", "place", "said"),
    [
        ("a.jsonl", '{"TEXT": "a"}\n{"TEXT": "b', ":2:", "cut short"),
        ("a.jsonl", '{"TEXT": "a"}\n{"words": "b"}\n', ":2:", "no column of captions"),
        ("a.csv", "URL,words\nu,a\n", ":1:", "no column of captions"),
        ("a.csv", "URL,TEXT\nu,a\nv\n", ":3:", "fewer fields"),
        ("a.csv", "URL,TEXT\nu,a,b\n", ":2:", "more fields"),
        ("a.csv", 'URL,TEXT\nu,"a\n', "a.csv", "no CSV"),
        ("a.parquet", "PAR1", "a.parquet", "no whole parquet"),
    ],
)
def test_a_bad_caption_file_is_named_with_its_place(
    tmp_path: Path, name: str, text: str, place: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError) as caught:
        choose(tmp_path / name, None, 0)
    assert place in str(caught.value)
    assert said in str(caught.value)


def test_a_line_that_was_damaged_later_is_named_and_nothing_is_lost(tmp_path: Path, server: Asked) -> None:
    captions = write_captions(tmp_path / "laion.jsonl")
    config, path = config_for(server, captions), tmp_path / "out" / "rows.jsonl"
    generate.run(config, {}, tmp_path / "out", None)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "\x00\x00\n", *lines[3:]]))
    with pytest.raises(RecipeError, match=r"rows.jsonl:3:1: this line cannot be read"):
        generate.run(config, {}, tmp_path / "out", None)
    path.write_text("".join([*lines[:2], *lines[3:]]))
    assert generate.run(config, {}, tmp_path / "out", None)["prompts"] == 4
    assert len(server.captions()) == 8


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "laion.jsonl")
    with pytest.raises(UsageError, match="no language model"):
        generate.run(Config(maker="generate", captions=captions), {}, tmp_path / "out", None)
    for settings in ({"model": "a", "endpoint": {"url": "http://x", "model": "b"}}, {"moderation": "endpoint"},
                     {"endpoint": {"url": "file:///etc/passwd", "model": "b"}}):  # fmt: skip
        with pytest.raises(ValidationError):
            Config(maker="generate", captions=captions, **settings)
    with pytest.raises(NothingMatchedError):
        choose(write_captions(tmp_path / "none.jsonl", [" "]), None, 0)
