"""`--devices` as a person types it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import pytest
from command import CommandLine
from runs import digests, lines_of, many

from ip2pbatch.errors import UsageError
from ip2pbatch.run.devices.processes import Processes, environment
from ip2pbatch.run.devices.wire import Line
from ip2pbatch.run.machine import devices_of


def test_devices_are_all_or_a_list_in_which_the_cpu_may_stand_for_several() -> None:
    assert devices_of(None) == ()
    assert devices_of("all") == ("all",)
    assert devices_of("cuda, cuda:3") == ("cuda:0", "cuda:3")
    assert devices_of("cpu:3,cuda:1") == ("cpu", "cpu", "cpu", "cuda:1")
    for text in ("", "gpu", "cpu:0", "cpu:", "cuda:0,", "all,cpu", "cpu:1000"):
        with pytest.raises(UsageError, match="is not a device"):
            devices_of(text)
    with pytest.raises(UsageError, match="asks for 300 workers"):
        devices_of("cpu:300")
    assert Processes().names(["cpu", "cuda:1", "cpu"]) == ["cpu-1", "cuda:1", "cpu-2"]


def test_a_worker_has_its_share_of_the_cores_and_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8), raising=False)
    assert environment("cpu", 4) == {"OMP_NUM_THREADS": "2"}
    assert environment("cuda:1", 16) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment("cpu", 1) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5e2a")
    assert environment("cuda:1", 2) == {"CUDA_VISIBLE_DEVICES": "GPU-5e2a"}
    assert environment("cuda:2", 2) == {"CUDA_VISIBLE_DEVICES": "-1"}


def test_flags_that_do_not_fit_together_are_a_mistake(command: CommandLine, shoot: Path) -> None:
    flags = ("edit", shoot / "photos", "-i", "x", "-o", shoot / "out", "--backend", "fake")
    said = command(*flags, "--devices", "cpu:2", "--device", "cpu")
    assert (said.code, "--device and --devices do not go together" in said.err) == (2, True)
    assert command(*flags, "--devices", "tpu").code == 2
    assert not (shoot / "out").exists()


def test_a_gpu_that_is_not_there_is_missing_by_its_name(command: CommandLine, shoot: Path) -> None:
    edit = ("edit", shoot / "photos", "-i", "make it winter", "-o", shoot / "out", "--backend", "fake")
    said = command(*edit, "--devices", "cuda:7")
    assert (said.code, "cuda:7: this machine has no cuda:7" in said.err) == (6, True)
    assert not (shoot / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="a line is a socket where POSIX is")
def test_who_is_stuck_in_the_middle_of_a_message_holds_up_nobody() -> None:
    ours, theirs = Pipe()
    line = Line(ours, patience=0.05)
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"half of it")
    with pytest.raises(BlockingIOError):
        line.hear()
    with pytest.raises(BlockingIOError):
        line.say(bytes(10_000_000))


def test_a_worker_makes_the_files_of_a_command_and_the_next_one_adds_to_them(command: CommandLine, shoot: Path) -> None:
    edit = ("edit", shoot / "photos", "-i", "make it winter", "--backend", "fake")
    assert command(*edit, "-o", shoot / "one").code == 0
    said = command(*edit, "-o", shoot / "two", "--devices", "all")
    assert said.code == 0, said.err  # where there is no GPU, all is the CPU
    photos = {name: digest for name, digest in digests(shoot / "one").items() if name.endswith(".jpg")}
    assert {name: digest for name, digest in digests(shoot / "two").items() if name.endswith(".jpg")} == photos
    assert len(photos) > 1
    assert "all" in said.out.splitlines()[-1]
    assert "0 edits made" in command("run", shoot / "two", "--backend", "fake").out


@pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: eight processes load torch")
@pytest.mark.parametrize("determinism", ["stable", "bitwise"])
def test_the_embedded_model_makes_the_same_bits_in_two_workers(shoot: Path, determinism: str) -> None:
    """Each of them with as many threads as the one process has: bits hang on that."""
    recipe = shoot / "r.yaml"
    recipe.write_text(
        "photos: photos\nedits: [make it winter, {id: two, chain: [make it a painting, make it blue]}]\n"
        "size: {long_side: 128}\nsteps: 4\nmodel: tiny\noutput: {folder: out}\n"
    )
    for out, devices in (("one", ()), ("two", ("--devices", "cpu,cpu"))):
        flags = ["run", str(recipe), "-o", str(shoot / out), "--determinism", determinism, *devices]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-m", "ip2pbatch", *flags], env=env, check=True, capture_output=True)
    keys = lines_of(shoot / "one/.ip2pbatch/results.jsonl", "edit")
    assert sorted(lines_of(shoot / "two/.ip2pbatch/results.jsonl", "edit")) == sorted(keys)
    for kept in ("edits", "sources"):
        one, two = (digests(shoot / out / ".ip2pbatch" / kept) for out in ("one", "two"))
        assert one == two
    files = [{n: d for n, d in digests(shoot / out).items() if n.endswith(".jpg")} for out in ("one", "two")]
    assert files[0] == files[1]
    assert files[0]
