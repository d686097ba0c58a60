"""Decoders work in processes of their own: what becomes of one is a photo's reason, and never another photo's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from runs import exit_of, in_child

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.codecs import apart


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IO[bytes]]:
    """A file of one byte, and processes that know the functions above."""
    monkeypatch.setattr(apart, "_idle", [])
    path = tmp_path / "a"
    path.write_bytes(b"x")
    with path.open("rb") as opened:
        yield opened
    apart.end()


def asked(file: IO[bytes], function: str) -> Any:
    return apart.ask(file, f"bad_decoders:{function}")


def test_one_process_decodes_picture_after_picture(file: IO[bytes]) -> None:
    first, second = (apart.decode(file, "bad_decoders:draw", None) for _ in range(2))
    assert first.pixels.tolist() == [[[1] * 3] * 3] * 2
    assert (first.alpha is not None, first.icc, first.bits) == (True, b"icc", 10)
    assert first.notes == second.notes != (str(os.getpid()),)


def test_a_reason_is_told_and_the_process_stays(file: IO[bytes]) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            asked(file, "refuse")
    assert len(apart._idle) == 1


def test_a_decoder_that_crashes_or_hangs_ends_no_run(file: IO[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhotoError, match=r"its decoder crashed \(signal 6\)"):
        asked(file, "crash")
    monkeypatch.setattr(apart, "_PATIENCE", 0.3)
    with pytest.raises(PhotoError, match="came to no end"):
        asked(file, "hang")
    assert apart._idle == []


def test_a_crash_for_another_picture_s_sake_is_tried_again(file: IO[bytes]) -> None:
    assert asked(file, "crash_if_used") != asked(file, "crash_if_used")


def test_memory_is_bounded_by_the_picture_s_size(file: IO[bytes]) -> None:
    with pytest.raises(MemoryError):
        asked(file, "grow")
    assert asked(file, "grow_with_room") == 3 << 30


def test_a_process_that_is_gone_is_replaced(file: IO[bytes]) -> None:
    gone = asked(file, "crash_if_used")
    os.kill(gone, signal.SIGKILL)
    assert asked(file, "crash_if_used") != gone


def test_a_terminal_s_signals_are_for_the_run(file: IO[bytes]) -> None:
    process = asked(file, "crash_if_used")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process, number)
    assert apart.decode(file, "bad_decoders:draw", None).notes == (str(process),)


def test_a_fork_has_processes_of_its_own(file: IO[bytes]) -> None:
    mine = apart.decode(file, "bad_decoders:draw", None).notes

    def other() -> int:
        return int(apart.decode(file, "bad_decoders:draw", None).notes == mine)

    assert exit_of(in_child(other)) == 0
    assert apart.decode(file, "bad_decoders:draw", None).notes == mine


def test_processes_end_with_the_one_that_they_work_for(file: IO[bytes]) -> None:
    program = (
        "import sys, io, os, signal; sys.path[:0] = sys.argv[1:]; from ip2pbatch.pictures.codecs import apart\n"
        "print(apart.ask(io.BytesIO(b'x'), 'bad_decoders:crash_if_used'), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, *sys.path], capture_output=True, text=True, timeout=60)
    for _ in range(200):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a decoder outlived its run")


def test_a_decoder_that_is_called_here_leaves_this_process_its_memory() -> None:
    resource = pytest.importorskip("resource", reason="no limits on this system")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    apart.room_for(96, 128)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
