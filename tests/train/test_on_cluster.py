"""Rows of training stages that workers are dealt, on a stand-in for Ray and on a cluster of Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in_ray
from command import CommandLine
from completion_server import Asked, completion_server
from paper_chain import write_chain
from runs import LONG, many

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.errors import RecipeError, UsageError, WorkerError
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.member import Member
from ip2pbatch.run.on_ray.actors import ActorLink, RayActors
from ip2pbatch.run.on_ray.capacity import Room
from ip2pbatch.run.on_ray.keeper import began, with_descendants
from ip2pbatch.train import stages
from ip2pbatch.train.captions import generate
from ip2pbatch.train.data.broken import LeftOut
from ip2pbatch.train.on_cluster import RowClerk, RowDealer, deal_out
from ip2pbatch.train.pairs.prompt_to_prompt.pair_stage import PairRows
from ip2pbatch.train.pairs.scores import ScoreRows
from ip2pbatch.train.row_work import RowWork
from ip2pbatch.train.row_worker import RowEntry, RowOpening, RowWorker

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed: pip install ray"
)
soaked = pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: processes load torch")
WORDS = [f"{what} of {number} houses" for number in range(8) for what in ("a row", "plain nonsense", "an endless road")]


@pytest.fixture
def server() -> Iterator[Asked]:
    with completion_server() as asked:
        yield asked


def write_captions(folder: Path, server: Asked, batch: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "laion.jsonl").write_text("".join(json.dumps({"TEXT": text}) + "\n" for text in WORDS))
    endpoint = f"{{url: '{server.url}', model: writer, wait: 0.0, at_once: 1}}"
    (folder / "captions.yaml").write_text(
        f"stage: captions\nmaker: generate\ncaptions: laion.jsonl\nbatch: {batch}\nendpoint: {endpoint}\n"
    )
    return folder / "captions.yaml"


def captions_of(folder: Path, server: Asked, out: Path) -> tuple[RowOpening, RowWork]:
    settings = stages.load_config(write_captions(folder, server)).settings
    out.mkdir(exist_ok=True)
    opening = RowOpening.of("ip2pbatch.train.captions.generate", settings, {}, out)
    return opening, opening.work()


def by_threads(
    opening: RowOpening, work: RowWork, workers: int = 2, notes: list[str] | None = None,
    watching: Callable[[Crew[Any, Any]], None] = lambda crew: None,
) -> float:  # fmt: skip
    """`make_rows` without Ray."""
    said = [] if notes is None else notes
    launcher = RayActors(stand_in_ray, Room(1, workers, 1, 0, workers), {}, RowWorker)  # type: ignore[arg-type]
    return deal_out(work, work.left(), opening, workers, launcher, said.append, watching)


def lose(member: Member) -> None:
    """Its process is no more; here it goes on unheard."""
    assert isinstance(member.link, ActorLink)
    stand_in_ray.kill(member.link._actor)


def meanwhile(work: Any) -> Any:
    return lambda crew: threading.Thread(target=work, args=(crew,), daemon=True).start()


def until(state: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not state():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)


def results(out: Path) -> dict[str, bytes]:
    """What stages have made, but for what hangs on when and by whom: records, locks, and the lines in their order."""
    kept = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    odd = re.compile(r"writer.*|gate\.lock|done\.json|rows.*\.jsonl|scores.*\.jsonl|judged.*\.jsonl")
    lines = {
        name: b"\n".join(sorted(data.splitlines()))
        for name, data in kept.items() if re.search(r"(rows|scores|judged)\.jsonl$", name)
    }  # fmt: skip
    return {name: data for name, data in kept.items() if not odd.fullmatch(Path(name).name)} | lines


def test_rows_are_dealt_in_groups_that_shrink_and_come_back_alone() -> None:
    dealer = RowDealer(range(100), 16)
    groups = []
    while group := dealer.deal(2):
        groups.append(group.rows)
        dealer.settle(group.rows[:-1] if 7 in group.rows else group.rows)
    assert [row for group in groups for row in group] == list(range(100))
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (16, 1)
    assert (dealer.is_empty, dealer.left) == (True, 1)
    first = next(group for group in groups if 7 in group)
    for times, expected in ((1, []), (2, []), (3, [15])):
        back = type("", (), {"rows": first})
        assert [lost.row for lost in dealer.take_back(back, f"worker-1 died ({times})")] == expected  # type: ignore[arg-type]
        again = dealer.deal(2)
        assert (again.rows if again else ()) == ((15,) if times < 3 else ())
    assert dealer.is_empty


def test_captions_by_workers_are_those_of_one_process(tmp_path: Path, server: Asked) -> None:
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    rate = by_threads(opening, work, 3)
    assert rate > 0
    metrics = work.finish(rate)
    settings = stages.load_config(tmp_path / "in/captions.yaml").settings
    assert generate.run(settings, {}, tmp_path / "alone", None) == metrics | {  # type: ignore[arg-type]
        "tokens/s": pytest.approx(metrics["tokens/s"], abs=1e9)
    }
    assert results(tmp_path / "out") == results(tmp_path / "alone")
    assert work.left() == []


def test_a_worker_that_is_lost_and_comes_back_is_not_heard(tmp_path: Path, server: Asked) -> None:
    """Its last answers come when another one has long made its rows."""
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    lost, notes, held = threading.Event(), list[str](), threading.Semaphore(4)

    def before() -> None:
        if not held.acquire(blocking=False):
            lost.wait(LONG)

    def lose_one(crew: Crew[Any, Any]) -> None:
        until(lambda: len(server.bodies) > 5 and all(member.state == "busy" for member in crew.members))
        lose(crew.members[0])
        until(lambda: any("another worker takes its place" in note for note in notes))
        lost.set()

    server.before = before
    by_threads(opening, work, notes=notes, watching=meanwhile(lose_one))
    rows = [row["row"] for row in read_journal(tmp_path / "out/rows.jsonl")]
    assert sorted(rows) == list(range(len(WORDS)))
    (note,) = notes
    assert re.fullmatch(r"worker-1 on \S+ has ended without a word, as .*: another worker takes its place", note)
    settings = stages.load_config(tmp_path / "in/captions.yaml").settings
    work.finish(0.0)
    generate.run(settings, {}, tmp_path / "alone", None)  # type: ignore[arg-type]
    assert results(tmp_path / "out") == results(tmp_path / "alone")


def test_rows_that_one_process_or_a_shard_has_made_are_not_dealt(tmp_path: Path, server: Asked) -> None:
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    settings = stages.load_config(tmp_path / "in/captions.yaml").settings
    assert generate.run(settings, {}, tmp_path / "out", None, generate.Shard(2, 3)) is None  # type: ignore[arg-type]
    asked = len(server.bodies)
    assert len(work.left()) == len(WORDS) - asked
    by_threads(opening, work)
    assert len(server.bodies) == len(WORDS)
    assert work.left() == []


def test_a_row_that_three_workers_end_over_is_named_and_the_others_are_made(tmp_path: Path, server: Asked) -> None:
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    notes = list[str]()
    stuck, deadly = threading.Event(), "a row of 3 houses"

    def before() -> None:
        if server.captions()[-1] == deadly:
            stuck.wait(LONG)

    def end_it(crew: Crew[Any, Any]) -> None:
        for number in range(3):
            until(lambda least=number: server.captions().count(deadly) > least)
            (member,) = (one for one in crew.members if one.state == "busy")
            lose(member)

    server.before = before
    try:
        with pytest.raises(WorkerError, match=r"row \d+: 3 workers ended over this row: worker-1 on \S+") as caught:
            by_threads(opening, work, 1, notes, meanwhile(end_it))
    finally:
        stuck.set()
    assert caught.value.hint == "what is made is kept; run again to try these again"
    (left,) = work.left()
    assert work.rows[left].caption == deadly  # type: ignore[attr-defined]


def test_a_worker_that_sees_other_data_is_refused(tmp_path: Path, server: Asked) -> None:
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    (tmp_path / "in/laion.jsonl").write_text(json.dumps({"TEXT": "another"}) + "\n")
    with pytest.raises(UsageError, match=r"worker-1 on \S+ sees other data: not the same rows"):
        by_threads(opening, work)
    assert not (tmp_path / "out/rows.jsonl").exists()


def test_what_a_worker_cannot_go_on_from_ends_the_stage_with_its_code(tmp_path: Path, server: Asked) -> None:
    opening, work = captions_of(tmp_path / "in", server, tmp_path / "out")
    server.refuses = True
    with pytest.raises(WorkerError, match=r"worker-\d on \S+: ") as caught:
        by_threads(opening, work)
    assert caught.value.exit_code == 6
    assert caught.value.hint


def test_broken_samples_are_named_once_and_counted_over_all_workers(tmp_path: Path) -> None:
    work = RowWork(tmp_path)
    work.left_out = LeftOut(tmp_path, 20, 0.1)
    clerk = RowClerk(work, RowDealer(range(9), 4), lambda text: None)
    for epoch, sample in enumerate(["a.jpg", "b.jpg", "a.jpg"]):
        assert clerk.write([RowEntry(epoch, 0, broken=(sample, f"{sample}: is empty"))]) is None
    assert [row["sample"] for row in read_journal(tmp_path / "broken.jsonl")] == ["a.jpg", "b.jpg"]
    with pytest.raises(RecipeError, match="3 of 20 samples are broken, more than 2 may be left out"):
        clerk.write([RowEntry(4, 0, broken=("c.jpg", "c.jpg: is empty"))])
    clerk.end("")


def test_the_paper_s_stages_by_workers_make_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs, scores, filter and pack, each by two workers; what fine-tunes the language model is no stage of rows."""
    write_chain(tmp_path)
    rows = [json.dumps({"input": f"a {one}", "edit": "make it red", "output": f"a red {one}"}) for one in "abcde"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    scores = f"stage: scores\ninputs: {{pairs: pairs.yaml}}\nmodel: {tmp_path}/models/clip\nbatch: 2\n"
    (tmp_path / "scores.yaml").write_text(scores)
    for name, old, new in (
        ("pairs.yaml", "inputs: {captions: captions.yaml}", "captions: prompts.jsonl"),
        ("filter.yaml", "pairs.yaml}", "pairs.yaml, scores: scores.yaml}"),
        ("pack.yaml", "filter.yaml}}", "filter.yaml}, prompts_per_shard: 2}"),
    ):
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new))
    stages.run(tmp_path / "pack.yaml", out=tmp_path / "alone")
    dealt, lock = [], threading.Lock()  # two threads of one process cannot load models at the same time

    def one_by_one(opened: Callable[[Any], str]) -> Callable[[Any], str]:
        def open_alone(self: Any) -> str:
            with lock:
                return opened(self)

        return open_alone

    for rows_of in (PairRows, ScoreRows):
        monkeypatch.setattr(rows_of, "open", one_by_one(rows_of.open))

    def make_rows(opening: RowOpening, cluster: Any) -> dict[str, float]:
        work = opening.work()
        dealt.append(len(work.left()))
        return work.finish(by_threads(opening, work))

    monkeypatch.setattr("ip2pbatch.train.on_cluster.make_rows", make_rows)
    monkeypatch.setattr("ip2pbatch.run.on_ray.cluster.imported", lambda: None)
    made = stages.run(tmp_path / "pack.yaml", out=tmp_path / "dealt", cluster=object())  # type: ignore[arg-type]
    assert [one.state for one in made] == ["fresh"] * 4
    assert dealt == [5, 5, 5, 3]
    assert results(tmp_path / "dealt") == results(tmp_path / "alone")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "2"], "--workers is of a cluster"),
        (["--on", "ray", "--shard", "1/2"], "--on and --shard do not go together"),
        (["--on", "ray", "--workers", "none"], "none is no number of workers"),
    ],
)
def test_flags_that_do_not_fit_together_are_a_mistake(
    flags: list[str], said: str, command: CommandLine, tmp_path: Path, server: Asked
) -> None:
    done = command("train", "run", write_captions(tmp_path / "in", server), "-o", tmp_path / "out", *flags)
    assert (done.code, said in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists()


def test_a_stage_without_rows_is_refused_by_name(command: CommandLine, tmp_path: Path) -> None:
    write_chain(tmp_path)
    done = command("train", "run", tmp_path / "pairs.yaml", "-o", tmp_path / "out", "--on", "ray")
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "triplets is not fresh, and has no rows that could be dealt to workers" in said
    assert f"bring it up to date without --on first: ip2pbatch train run {tmp_path}/triplets.yaml" in said
    assert not (tmp_path / "out/triplets").exists()


def test_without_ray_it_is_missing_with_the_line_that_brings_it(
    command: CommandLine, tmp_path: Path, server: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = command("train", "run", write_captions(tmp_path / "in", server), "-o", tmp_path / "out", "--on", "ray")
    assert done.code == 6
    assert "--on ray needs Ray, which is not installed" in done.err
    assert "pip install 'ip2pbatch[ray]'" in done.err
    assert not (tmp_path / "out/captions").exists()


def start(config: Path, out: Path, temporary: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ip2pbatch", "train", "run", str(config), "-o", str(out), "--on", "ray"]
    return subprocess.Popen(
        [*command, "--workers", "1..2"], env={k: v for k, v in env.items() if not k.startswith("RAY_")},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def actors_of(process: int) -> list[int]:
    """The workers of a cluster that this process started."""
    found = []
    for one in with_descendants(process):
        if one != process and b"ray::Actor" in Path(f"/proc/{one}/cmdline").read_bytes():
            found.append(one)
    return found


@with_ray
@pytest.mark.parametrize("driver", [False, pytest.param(True, marks=soaked)])
def test_a_worker_or_the_driver_is_killed_on_a_cluster_of_ray(tmp_path: Path, server: Asked, driver: bool) -> None:
    """A worker's rows are another's; after the driver's end one process goes on, and nothing of Ray is left."""
    config, out = write_captions(tmp_path / "in", server), tmp_path / "out"
    temporary = Path("/tmp") / f"ip2p-rows-{os.getpid()}"  # Ray's sockets have no long names
    temporary.mkdir(exist_ok=True)
    killed, seen, some = threading.Event(), dict[int, str](), threading.Semaphore(7)
    server.before = lambda: None if some.acquire(blocking=False) else (killed.wait(LONG), None)[1]
    going = start(config, out, temporary)
    try:
        until(lambda: len(server.bodies) >= 7 or going.poll() is not None)
        assert going.poll() is None, going.communicate()[0]
        seen = {one: began(one) for one in with_descendants(going.pid)}
        victim = going.pid if driver else actors_of(going.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed.set()
        said = going.communicate(timeout=LONG)[0]
        until(lambda: not [one for one, when in seen.items() if began(one) == when])
    finally:
        killed.set()
        going.kill()
        going.wait()
    assert going.returncode == (-signal.SIGKILL if driver else 0), said
    if not driver:
        assert "another worker takes its place" in " ".join(said.split())
    (made,) = stages.run(config, out=out)
    assert made.state == "fresh"
    stages.run(config, out=tmp_path / "alone")
    assert results(out) == results(tmp_path / "alone")
    rows = [row["row"] for row in read_journal(made.folder / "rows.jsonl")]
    assert sorted(rows) == list(range(len(WORDS)))
    assert [*temporary.glob("ip2p-*")] == []
    shutil.rmtree(temporary)
