"""Runs the command line in this process, as a person would type it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer.main
from originals import photos_below, untouched

from ip2pbatch.cli import app, console

# Typer reads the signatures of all commands anew at each call: half of what a command on the fake engine takes.
_built = cache(typer.main.get_command)


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class CommandLine:
    """`command("run", recipe)` → Said; paths become texts. Fails where a command touches a photo below `folder`, unless
    the test itself changes photos meanwhile and says so: `command.guarding = False`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._monkeypatch, self._capsys, self._folder = monkeypatch, capsys, folder
        self.guarding = True

    def __call__(self, *arguments: str | Path) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["ip2pbatch", *map(str, arguments)])
        self._monkeypatch.setattr(typer.main, "get_command", _built)
        # rich remembers the streams it was made with, and pytest gives every test its own
        console.out.cache_clear()
        console.talk.cache_clear()
        self._capsys.readouterr()
        with (
            untouched(photos_below(self._folder) if self.guarding else ()),
            pytest.raises(SystemExit) as stop,
        ):
            app.main()
        said = self._capsys.readouterr()
        code = stop.value.code
        return Said(code if isinstance(code, int) else int(code is not None), said.out, said.err)
