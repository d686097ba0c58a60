"""`--shard k/n` as people and schedulers use it: through the command line, in any order, with parts that never ran."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from command import CommandLine
from runs import make_photos

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.plan.shard import Shard

FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_photos(tmp_path / "photos", 9)
    path = tmp_path / "recipe.yaml"
    path.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\nsize: 64\noutput: {folder: out}\n")
    return path


def standing(command: CommandLine, out: Path) -> dict[str, int]:
    """How many edits are in which state, as `status` tells programs."""
    said = command("status", out, "--json")
    assert said.code == 0, said.err
    return {state: count for state, count in json.loads(said.out)["edits"].items() if count}


def made(out: Path) -> Counter[str]:
    """How often each edit was made, all shards together."""
    rows = (row for path in (out / ".ip2pbatch").glob("results*.jsonl") for row in read_journal(path))
    return Counter(row["edit"] for row in rows if row["status"] == "done")


def test_what_a_shard_that_never_ran_was_to_make_is_left(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    for k in (1, 3):
        said = command("run", recipe, *FAKE, "--shard", f"{k}/3")
        assert said.code == 0, said.err
        assert f"edits of shard {k}/3 are there" in said.out
    there = len(list(out.rglob("day*/*.jpg")))
    assert 0 < there < 9
    assert standing(command, out) == {"done": there, "left": 9 - there}
    assert f"{there} done, {9 - there} left" in command("status", recipe).out
    assert command("report", out).code == 0
    report = (out / "report.html").read_text()
    assert all(f"day{n % 2}/{n:04d}.jpg" in report for n in range(9))
    assert report.count("not read yet") == 9 - there
    assert "could not be read" not in report
    assert command("lock", recipe).code == 4
    assert command("run", recipe, *FAKE, "--shard", "2/3").code == 0
    assert standing(command, out) == {"done": 9}
    assert command("verify", out).code == 0
    assert list(made(out).values()) == [1] * 9


def test_a_photo_that_is_added_moves_no_other_and_is_made_by_its_own_shard(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    for k in (1, 2, 3):
        assert command("run", recipe, *FAKE, "--shard", f"{k}/3").code == 0
    (added,) = make_photos(recipe.parent / "elsewhere", 10)[9:]
    added.path.rename(recipe.parent / "photos" / "added.jpg")
    before = made(out)
    for k in (1, 2, 3):
        said = command("run", recipe, *FAKE, "--shard", f"{k}/3")
        assert said.code == 0, said.err
        assert ("1 edit made" in said.out) is Shard(k, 3).owns(added)
    assert len(made(out) - before) == 1
    assert standing(command, out) == {"done": 10}


def test_a_shard_without_a_photo_is_done_and_says_why(command: CommandLine, recipe: Path) -> None:
    photos = make_photos(recipe.parent / "photos", 9)
    empty = next(k for k in range(1, 41) if not any(Shard(k, 40).owns(photo) for photo in photos))
    said = command("run", recipe, *FAKE, "--shard", f"{empty}/40")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1].endswith(f"no photo of shard {empty}/40 was there to edit")
    assert standing(command, recipe.parent / "out") == {"left": 9}


def test_what_another_split_delivered_last_is_what_counts(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    text = recipe.read_text()
    for parts, quality in ((2, 95), (8, 60), (3, 80)):
        recipe.write_text(text.replace("folder: out", f"folder: out, quality: {quality}"))
        for k in range(1, parts + 1):
            assert command("run", recipe, *FAKE, "--shard", f"{k}/{parts}").code == 0
    assert len(list(out.rglob("day*/*.jpg"))) == 9
    for k in (1, 2, 3):
        assert "0 files delivered" in command("run", recipe, *FAKE, "--shard", f"{k}/3").out
    assert "0 files delivered" in command("run", recipe, *FAKE).out


def test_shards_of_some_photos_only_leave_those_of_all_as_they_were(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    for k in (1, 2):
        assert command("run", recipe, *FAKE, "--shard", f"{k}/2").code == 0
    (recipe.parent / "photos/day0/0000.jpg").write_bytes(
        (make_photos(recipe.parent / "elsewhere", 12)[11]).path.read_bytes()
    )
    for k in (1, 2):
        assert command("run", recipe, *FAKE, "--only", "day0/*", "--shard", f"{k}/2").code == 0
    assert standing(command, out) == {"done": 9}  # the photo that was there before is not asked for any more
    assert sum(made(out).values()) == 10
