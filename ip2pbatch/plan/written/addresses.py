"""Addresses where files and folders of this machine are meant: `s3://bucket/out` would become a folder called `s3:`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ip2pbatch.errors import UsageError

HINT = "name a folder or a file of this machine; mount what lies elsewhere, or copy it first"
# Two letters at least, or a drive of Windows would be one; pathlib leaves one slash of two.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_WORDS = ("-i", "--instruction", "-m", "--model")  # options that take no path
_NO_PATHS = ("models", "export")  # commands that take a model's name


def is_address(text: str) -> bool:
    """Whether a path is written like an address of the net or of a store."""
    return _ADDRESS.match(text) is not None


def refuse_addresses(arguments: Sequence[str]) -> None:
    """Raises UsageError where a command line names an address as a path, after the option where there is one."""
    if arguments[:1] and arguments[0] in _NO_PATHS:
        return
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else (option, "=", argument)
        if equals and is_address(value) and name not in _WORDS:
            raise UsageError(f"{name}{': ' if name else ''}{value} is an address and no path", hint=HINT)
        option = argument if argument.startswith("-") else ""
