"""How the command line talks: stdout is data, stderr is talk, and the one place where errors become words."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import IO, TYPE_CHECKING

from ip2pbatch.errors import Ip2pError, RecipeError, ResourceError, TerminatedError

if TYPE_CHECKING:
    from rich.console import Console


_MISTAKES = 20  # of one file that are shown beside the first
_COMMANDS = dict.fromkeys({*range(32), *range(127, 160)} - {*map(ord, "\t\n")}, "\ufffd")


@cache
def out() -> Console:
    """The console of results (stdout)."""
    return _console(stderr=False)


@cache
def talk() -> Console:
    """The console of progress, warnings and errors (stderr)."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class Lasting(Console):
        """A reader that goes away, as `head -1` does, ends no work; rich's own console would exit with 1."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            _discard(self.file)

    return Lasting(stderr=stderr, highlight=False, soft_wrap=True)


def data(*lines: str) -> None:
    """Lines for machines, on stdout. A reader that went away ends no work. Raises ResourceError where the disk is full
    that stdout is on.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        _discard(sys.stdout)
        note("nobody reads stdout any more: going on without it")
    except OSError as error:
        _discard(sys.stdout)
        raise ResourceError(
            f"stdout cannot be written: {error.strerror}", hint="free some space, or send it elsewhere"
        ) from error


def _discard(stream: IO[str]) -> None:
    """Throw away what is written to a stream from now on, and what it still holds, so that Python's end flushes it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def is_terminal() -> bool:
    """Whether a person watches a terminal that can draw: progress is drawn only then, and told in lines elsewhere."""
    drawn_on = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return sys.stderr.isatty() and drawn_on and os.environ.get("CI", "").lower() not in ("1", "true")


def wrapped(text: str, width: int) -> str:
    """`text` in lines that end between words; a path that is longer than a line is left whole, to be copied."""
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join("\n".join(line) for line in lines)


def _say(label: str, style: str, message: str) -> None:
    """A sentence after its label, on a terminal in its lines and whole elsewhere."""
    from rich.text import Text

    sentence = plain(f"{label} {message}")
    said = Text(wrapped(sentence, talk().width) if sys.stderr.isatty() else sentence)
    said.stylize(style, 0, len(label))
    talk().print(said)


def plain(text: str) -> str:
    """`text` without what commands a terminal: a file may be called ESC ]0; and whatever the window is to be called."""
    return text.translate(_COMMANDS)


def count(number: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float, *, decimals: int = 1) -> str:
    """ "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def roughly(seconds: float) -> str:
    """How long something will take, as closely as anybody knows: "40 s", "18 min", "2 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Says what takes a moment, on a terminal and only as long as it does; everywhere, that ^C or SIGTERM ended it."""
    from ip2pbatch.run.stop import insisting

    try:
        with insisting(), talk().status(text) if is_terminal() else nullcontext():
            yield
    except (KeyboardInterrupt, TerminatedError) as stop:
        talk().print(f"{'terminated' if isinstance(stop, TerminatedError) else 'interrupted'} while {text}")
        raise


def show_error(error: Ip2pError) -> None:
    """One plain sentence, then the hint that mends it; the same for the other mistakes of the same file."""
    _say("error:", "bold red", str(error))
    if error.hint:
        _say("hint:", "bold", error.hint)
    more = error.more if isinstance(error, RecipeError) else ()
    for one in more[:_MISTAKES]:
        show_error(one)
    if len(more) > _MISTAKES:
        talk().print(f"and {count(len(more) - _MISTAKES, 'more mistake')}")


def note(message: str) -> None:
    """Something worth knowing that is nobody's mistake."""
    _say("note:", "bold", message)


def warn(message: str) -> None:
    """A warning that stops nothing."""
    _say("warning:", "bold yellow", message)
