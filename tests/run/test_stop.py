"""Signals as requests to stop: none is lost, whichever block is listening when it comes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from ip2pbatch.cli import console
from ip2pbatch.errors import TerminatedError
from ip2pbatch.run.stop import Stop, insisting, listening


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_request_with_its_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with listening() as stop:
        assert not stop.asked.is_set()
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.asked.wait(5)
    assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_the_first_signal_is_answered_at_once_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked.wait(5)
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == "stopping when this batch is done and written; ^C again stops at once\n"


def test_a_signal_that_comes_inside_a_nested_block_reaches_the_outer_one() -> None:
    with listening() as outer:
        with listening() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.asked.wait(5)
        assert outer.asked.is_set()
        assert outer.exit_code == 143
    with listening() as fresh:
        assert not fresh.asked.is_set()


def test_an_inner_block_leaves_the_outer_one_listening() -> None:
    with listening() as outer:
        with listening():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert outer.asked.wait(5)


def test_signals_in_the_middle_of_waiting_and_of_each_other_hang_nothing() -> None:
    """One comes at every line: a lock that were held there would be waited for by the thread that holds it."""

    def kill(frame: FrameType, event: str, value: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return kill

    before = sys.gettrace()
    with listening() as stop:
        sys.settrace(kill)
        try:
            assert stop.asked.wait(60)
        finally:
            sys.settrace(before)
        assert stop.exit_code == 143


def test_another_thread_has_a_stop_of_its_own_that_no_signal_asks() -> None:
    found: list[Stop] = []

    def work() -> None:
        with listening() as stop:
            found.append(stop)

    with listening() as main:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        os.kill(os.getpid(), signal.SIGINT)
        assert main.asked.wait(5)
    assert found[0] is not main
    assert not found[0].asked.is_set()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to ^C: what starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallows(number: signal.Signals) -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(number)


def disguises(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    except BaseException as error:
        raise RuntimeError("Error calling __set_name__") from error


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("library", [swallows, disguises])
@pytest.mark.parametrize(
    ("number", "end", "word"),
    [(signal.SIGINT, KeyboardInterrupt, "interrupted"), (signal.SIGTERM, TerminatedError, "terminated")],
)
def test_a_signal_while_something_loads_ends_it_though_a_library_makes_nothing_or_a_bug_of_it(
    library: Callable[[signal.Signals], None], number: signal.Signals, end: type[BaseException], word: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    console.talk.cache_clear()
    before = signal.getsignal(number)
    with pytest.raises(end) as stop, console.busy("loading a model"):
        library(number)
    assert f"{word} while loading a model" in capfd.readouterr().err
    assert signal.getsignal(number) is before
    assert getattr(stop.value, "code", 143) == 143


@pytest.mark.usefixtures("interruptible")
def test_what_is_no_interrupt_passes_and_a_run_s_own_answer_stays() -> None:
    with pytest.raises(ValueError, match="of its own"), insisting():
        raise ValueError("of its own")
    with listening() as stop, insisting():
        signal.raise_signal(signal.SIGINT)
    assert stop.exit_code == 130


ASKED_AT = """
import os, signal, sys

class Asking:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process has inherited
sys.meta_path.insert(0, Asking())
sys.argv = ["ip2pbatch", "report", "nowhere.yaml"]
from ip2pbatch.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("module", ["typer", "ip2pbatch.jobs"])
def test_the_first_moments_and_those_between_two_phases_have_a_word_too(
    number: signal.Signals, code: int, word: str, module: str
) -> None:
    """While the command line is imported, and within a command before anything listens."""
    program = ASKED_AT.format(module=module, number=int(number))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (code, [word])
