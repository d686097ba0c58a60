"""The paper's six stages in sequence, with tiny random models of the real classes; and the shipped configs."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_chain import CHAIN, TRIPLETS, write_chain
from PIL import Image
from runs import many

from ip2pbatch.train.configs import in_order, load_config
from ip2pbatch.train.stages import StageStatus, run

PAPER = Path(__file__).parents[2] / "training" / "paper"
TIMES = {"seconds", "rate", "samples_a_second"}


class Runner:
    """Runs the chain below `folder` (see chain_runner); what it says is kept in `said`."""

    def __init__(self, folder: Path, said: Path) -> None:
        script = Path(__file__).parents[1] / "helpers" / "chain_runner.py"
        command = [sys.executable, str(script), str(folder / "evaluate.yaml")]
        with said.open("w") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True
            )  # fmt: skip
        self.said = said

    def run(self, out: Path, stage: str = "", after: float = 0.0) -> int:
        """The exit code of one run, killed so many seconds into `stage`."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"out": str(out), "stage": stage, "after": after}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        assert code in (0, -9), self.said.read_text()
        return code


def results(out: Path) -> dict[str, Any]:
    """The bytes of all that a chain has made; of its records all but times. Logs, locks, what a kill left half-written
    and the state of generators that nothing was drawn from are no results."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        others = ("events.out.tfevents", "writer", "random_states", ".ip2p-")
        if path.name.startswith(others) or path.suffix == ".lock":
            continue
        found[name] = path.read_bytes()
        if path.name == "done.json":
            record = json.loads(found[name])
            figures = record["metrics"].items()
            record["metrics"] = {key: value for key, value in figures if not key.endswith("/s") and key not in TIMES}
            found[name] = {key: value for key, value in record.items() if key not in TIMES}
    return found


def unfinished(out: Path) -> str:
    """The stage that a kill has interrupted; none where it fell between two."""
    begun = [path.parents[1].name for path in out.glob("*/*/started.json") if not (path.parent / "done.json").exists()]
    return begun[0] if begun else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain's configs, its models with random weights, two triplets and three captions."""
    folder = tmp_path_factory.mktemp("paper")
    write_chain(folder)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, StageStatus]:
    """The chain, run once by its last config."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(folder / "evaluate.yaml", out=folder / "out")
    finally:
        torch.set_num_threads(threads)
    return {one.config.name: one for one in found}


def test_all_stages_run_from_triplets_to_the_curve(made: dict[str, StageStatus]) -> None:
    assert {name: one.state for name, one in made.items()} == {Path(name).stem: "fresh" for name in CHAIN}
    lines = (made["captions"].folder / "captions.jsonl").read_text().splitlines()
    assert [(row["input"], row["edit"], row["output"]) for row in map(json.loads, lines)] == TRIPLETS
    shard = next((made["pack"].folder / "shards").glob("pairs-*.tar"))
    assert shard.stat().st_size > 4 * 1024
    assert made["finetune"].metrics["steps"] == 3
    rows = list(csv.DictReader((made["evaluate"].folder / "tradeoff.csv").read_text().splitlines()))
    assert [(row["curve"], row["value"], row["samples"]) for row in rows] == [
        ("InstructPix2Pix", "1.0", "2"), ("InstructPix2Pix", "2.2", "2"), ("SDEdit", "0.5", "2"),
    ]  # fmt: skip
    with Image.open(made["evaluate"].folder / "tradeoff.png") as plot:
        assert plot.width > 1000


def test_a_second_run_makes_nothing(folder: Path, made: dict[str, StageStatus]) -> None:
    times = {name: (one.folder / "done.json").stat().st_mtime_ns for name, one in made.items()}
    again = run(folder / "evaluate.yaml", out=folder / "out")
    assert {one.config.name: (one.folder / "done.json").stat().st_mtime_ns for one in again} == times


def test_a_smaller_batch_is_no_other_training(folder: Path, made: dict[str, StageStatus]) -> None:
    config = folder / "finetune.yaml"
    text = config.read_text()
    config.write_text(text.replace("\nbatch: 2", "\nbatch: 1").replace("readers: 1", "cache: elsewhere"))
    try:
        again = {one.config.name: one for one in run(folder / "evaluate.yaml", out=folder / "out")}
    finally:
        config.write_text(text)
    assert again["finetune"].fingerprint == made["finetune"].fingerprint


@pytest.fixture
def runner(folder: Path, tmp_path: Path) -> Iterator[Runner]:
    found = Runner(folder, tmp_path / "said.txt")
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.mark.timeout(many(300, 20_000))
def test_a_chain_that_is_killed_at_random_moments_ends_in_the_same_bytes(
    made: dict[str, StageStatus], runner: Runner, tmp_path: Path
) -> None:
    """Three kills in the suite; in the soak twenty, and each stage twice at least."""
    whole = {name: (one.folder / "done.json").read_text() for name, one in made.items()}
    seconds = {name: json.loads(text)["seconds"] for name, text in whole.items()}
    expected = results(next(iter(made.values())).folder.parents[1])
    hits, rng = Counter[str](), random.Random()
    while hits.total() < many(3, 20) or min(hits[name] for name in made) < many(0, 2):
        out = tmp_path / f"killed-{hits.total()}"
        chosen = rng.sample(list(made), many(3, len(made)))
        for stage in sorted(chosen, key=list(made).index):
            if runner.run(out, stage, rng.uniform(0, max(0.02, 0.9 * seconds[stage]))) == -9:
                hits[unfinished(out)] += 1
        assert runner.run(out) == 0
        found = results(out)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == [], hits
    print("killed:", dict(hits))


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_is_valid(path: Path) -> None:
    assert list(in_order(load_config(path)))[-1].path == path.resolve()
