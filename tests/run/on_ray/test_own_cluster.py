"""`--on ray` as a person types it: without Ray, with flags that do not fit, and on a cluster of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import stand_in_ray
from command import CommandLine
from crews import by_crew
from runs import LONG, carry_out, digests, lines_of, make_photos, make_plan, many

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.jobs.engines import wanted
from ip2pbatch.run.devices.worker import Worker
from ip2pbatch.run.machine import Machine, workers_of
from ip2pbatch.run.on_ray.actor import Mailbox, greeting
from ip2pbatch.run.on_ray.actors import RayActors, how, unable, unlike
from ip2pbatch.run.on_ray.capacity import Node, Room, Wanted, room_for
from ip2pbatch.run.on_ray.cluster import _begin
from ip2pbatch.run.on_ray.keeper import began, with_descendants

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed: pip install ray"
)
soaked = pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: processes load torch")


def test_workers_are_a_number_or_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers_of(None) is None
    assert workers_of("8") == (8, 8)
    assert workers_of("1..64") == (1, 64)
    for text in ("", "0", "a", "1..", "4..2", "-1", "1..1000"):
        with pytest.raises(UsageError, match=r"number of workers|asks for 1000"):
            workers_of(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--on", "ray", "--devices", "cpu:2"], "--on and --devices do not go together"),
        (["--workers", "2"], "--workers is of a cluster"),
        (["--on", "ray", "--device", "cuda:1"], "a cluster gives each worker a GPU"),
        (["--on", "ray", "--workers", "none"], "none is no number of workers"),
    ],
)
def test_flags_that_do_not_fit_together_are_a_mistake(
    flags: list[str], said: str, command: CommandLine, shoot: Path
) -> None:
    done = command("edit", shoot / "photos", "-i", "x", "-o", shoot / "out", "--backend", "fake", *flags)
    assert (done.code, said in done.err) == (2, True), done.err
    assert not (shoot / "out").exists()


def test_what_has_one_machine_alone_says_so(command: CommandLine, shoot: Path) -> None:
    (shoot / "r.yaml").write_text("photos: photos\nedits: [x]\noutput: {folder: out}\n")
    done = command("watch", shoot / "photos", shoot / "r.yaml", "--backend", "fake", "--on", "ray")
    assert (done.code, "watch works on one machine" in done.err) == (2, True), done.err
    assert not (shoot / "out").exists()


def test_without_ray_it_is_missing_with_the_line_that_brings_it(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = command("edit", shoot / "photos", "-i", "x", "-o", shoot / "out", "--backend", "fake", "--on", "ray")
    assert done.code == 6
    assert "--on ray needs Ray, which is not installed" in done.err
    assert "pip install 'ip2pbatch[ray]'" in done.err
    assert not (shoot / "out").exists()


def test_what_a_cluster_has_room_for() -> None:
    """A worker a GPU; else one a node, or as many as are asked for with equal parts of the CPUs."""
    four = [Node(0), Node(16), Node(8), Node(8)]
    assert room_for(Wanted(), four) == Room(1, 3, 8, 0, 2)
    assert room_for(Wanted((4, 4)), four) == Room(4, 4, 8, 0, 2)
    assert room_for(Wanted((1, 8)), four) == Room(1, 8, 4, 0, 4)
    assert room_for(Wanted((1, 64)), four) == Room(1, 64, 1, 0, 16)
    assert room_for(Wanted((2, 3), threads=2), four) == Room(2, 3, 2, 0, 8)
    gpus = [Node(4), Node(32, 4), Node(12, 2)]
    assert room_for(Wanted(), gpus) == Room(1, 6, 6, 1, 4)
    assert room_for(Wanted((1, 64)), gpus) == Room(1, 64, 6, 1, 4)
    assert room_for(Wanted(gpu=False), gpus) == Room(1, 3, 12, 0, 2)
    assert room_for(Wanted((1, 8), gpu=True), []) == Room(1, 8, 1, 1, 1)
    assert room_for(Wanted(), []) == Room(1, 1, 1, 0, 1)


def test_what_flags_ask_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert wanted(Machine.of(on="ray")) == Wanted(None, None, None)
    assert wanted(Machine.of(on="ray", workers="1..4", device="cpu")) == Wanted((1, 4), False, None)
    assert wanted(Machine.of(on="ray", device="cuda")).gpu is True
    assert wanted(Machine.of(on="ray", backend="onnx", provider="cpu")).gpu is False
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert wanted(Machine.of(on="ray", backend="fake")) == Wanted(None, False, 3)


def test_another_version_is_told_in_a_sentence() -> None:
    ours = {"ip2pbatch": "1", "torch": "2.13"}
    assert unlike(ours, ours) == ""
    assert unlike({**ours, "torch": "2.9"}, ours) == "it has torch 2.9, and this process 2.13"
    assert unlike({"ip2pbatch": "1"}, ours) == "it has torch none, and this process 2.13"
    found = greeting(["numpy", "no-such-thing"])["versions"]
    assert found["no-such-thing"] == "none"
    assert found["python"] == sys.version.split()[0]


def test_ends_are_told_in_few_words() -> None:
    said = "The actor died ... Traceback\n  File x\nModuleNotFoundError: No module named 'ip2pbatch'\n"
    assert unable(RuntimeError(said)) == "ModuleNotFoundError: No module named 'ip2pbatch'"
    assert unable(RuntimeError("The actor is dead because its node has died.")) == ""
    lost = "is not reached any more, as where its node is lost"
    assert how(RuntimeError("The actor is dead because its node has died.")) == lost
    assert how(RuntimeError("The actor 07cc is unavailable: RPC error: Socket closed")) == lost
    assert how(RuntimeError("End of file")).startswith("has ended without a word")


def test_a_mailbox_keeps_the_order_and_the_last_sign_of_life() -> None:
    from ip2pbatch.run.devices.wire import Beat, Drain

    box = Mailbox("hello")
    for word in (Beat("a"), Beat("b"), Drain(), Beat("c")):
        box.say(word)
    assert box.take() == ["hello", Beat("b"), Drain(), Beat("c")]
    box.put([3], 2)
    box.put([1, 2], 0)
    assert (box.hear(), box.hear(), box.hear()) == (1, 2, 3)
    box.close()
    assert box.take() == []


def test_a_cluster_that_takes_too_long_to_begin_is_no_bug() -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    ray = SimpleNamespace(
        init=init, exceptions=SimpleNamespace(AuthenticationError=ValueError),
        _private=SimpleNamespace(worker=SimpleNamespace()),
    )  # fmt: skip
    with pytest.raises(MissingError, match=r"^Ray does not begin: The current node timed out") as caught:
        _begin(ray, "local")  # type: ignore[arg-type]
    assert caught.value.hint == "a machine that is very busy: try again"


def test_edits_by_actors_of_a_stand_in_are_those_of_one_process(tmp_path: Path) -> None:
    """All of our side of Ray, its processes being threads: see test_on_ray.py for those."""
    plan = make_plan(make_photos(tmp_path / "in", 6), ["make it winter", "make it night"], keep=(1, 2))
    assert carry_out(tmp_path / "alone", plan, FakeEngine()) == 0
    launcher = RayActors(stand_in_ray, Room(2, 2, 1, 0, 2), {}, Worker)  # type: ignore[arg-type]
    summary = by_crew(tmp_path / "out", plan, ["cpu", "cpu"], launcher=launcher)
    assert (summary.exit_code, summary.states["done"]) == (0, 12)
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")


def start(shoot: Path, out: str, *flags: str) -> subprocess.Popen[str]:
    command = ["edit", str(shoot / "photos"), "-i", "make it winter", "--seed", "0..3", "-o", str(shoot / out)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary(shoot))}
    return subprocess.Popen(
        [sys.executable, "-m", "ip2pbatch", *command, "--backend", "fake", *flags],
        env={k: v for k, v in env.items() if not k.startswith("RAY_")}, cwd=shoot, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def temporary(shoot: Path) -> Path:
    """Where a cluster's files go, for which no long name will do."""
    folder = Path("/tmp") / f"ip2p-test-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def is_left(processes: dict[int, str]) -> list[int]:
    return [process for process, when in processes.items() if began(process) == when]


def delivered(out: Path) -> dict[str, str]:
    return {name: one for name, one in digests(out).items() if name.endswith(".jpg")}


@with_ray
def test_a_killed_driver_leaves_no_process_and_a_plain_run_goes_on(shoot: Path, command: CommandLine) -> None:
    """It is killed as soon as its cluster has a worker. What Ray leaves is ended, and its files are gone."""
    folder, seen = temporary(shoot), dict[int, str]()
    killed = start(shoot, "ray", "--on", "ray", "--workers", "2")
    end = time.monotonic() + LONG
    while not (shoot / "ray/.ip2pbatch/run.json").exists():
        assert time.monotonic() < end
        assert killed.poll() is None, killed.communicate()[0]
        seen |= {process: began(process) for process in with_descendants(killed.pid)}
        time.sleep(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    minute = time.monotonic() + 60
    while left := is_left(seen):
        assert time.monotonic() < minute, [Path(f"/proc/{one}/cmdline").read_bytes() for one in left]
        time.sleep(0.1)
    assert len(seen) > 6
    assert list(folder.iterdir()) == []
    folder.rmdir()
    edit = ("edit", shoot / "photos", "-i", "make it winter", "--seed", "0..3", "--backend", "fake")
    assert command(*edit, "-o", shoot / "alone").code == 0
    assert command(*edit, "-o", shoot / "ray").code == 0
    assert delivered(shoot / "ray") == delivered(shoot / "alone")
    keys = lines_of(shoot / "ray/.ip2pbatch/results.jsonl", "edit")
    assert len(keys) == len(set(keys)) == 12


@with_ray
@soaked
@pytest.mark.parametrize("determinism", ["stable", "bitwise"])
def test_the_embedded_model_makes_the_same_bits_by_two_actors(shoot: Path, determinism: str) -> None:
    """And the one who deals loads no torch. Each worker has as many threads as the one process: bits hang on that."""
    folder = temporary(shoot)
    (shoot / "r.yaml").write_text(
        "photos: photos\nedits: [make it winter, {id: two, chain: [make it a painting, make it blue]}]\n"
        "size: {long_side: 128}\nsteps: 4\nmodel: tiny\noutput: {folder: out}\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)}
    for out, flags in (("one", []), ("two", ["--on", "ray", "--workers", "2"])):
        program = "import sys; from ip2pbatch.cli.app import main\ntry: main()\nfinally: print('torch' in sys.modules)"
        arguments = ["run", str(shoot / "r.yaml"), "-o", str(shoot / out), "--determinism", determinism, *flags]
        done = subprocess.run([sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(out == "one")
    assert list(folder.glob("ip2p-*")) == []
    shutil.rmtree(folder)  # torch keeps what it compiled there
    for kept in ("edits", "sources"):
        one, two = (digests(shoot / out / ".ip2pbatch" / kept) for out in ("one", "two"))
        assert one == two
        assert one
    assert delivered(shoot / "one") == delivered(shoot / "two")
