"""Addresses where files and folders of this machine are meant: `s3://bucket/out` would become a folder called `s3:`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ip2pbatch.disk.buckets.locations import LocationError, is_object, read_location
from ip2pbatch.errors import UsageError

HINT = "name a folder or a file of this machine; mount what lies elsewhere, or copy it first"
_HINT_OBJECT = "photos and an output folder may lie in a bucket; here name a folder or a file of this machine"
_HINT_RUN = "give the folder of this machine where the run is kept: the one that `--state` named"
# Two letters at least, or a drive of Windows would be one; pathlib leaves one slash of two.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Three ways to point at a repository of the hub, with the revision where there is one.
_HUB = re.compile(
    r"(?:hf:|https?://(?:www\.)?(?:huggingface\.co|hf\.co))/{1,2}(?:models/|datasets/)?"
    r"(?P<repo>[\w.-]+/[\w.-]+?)(?:(?:@|/(?:tree|blob|resolve)/)(?P<revision>[\w.-]+))?/*"
)
_WORDS = ("-i", "--instruction", "-m", "--model")  # options that take no path
_NO_PATHS = ("models", "export")  # commands that take a model's name
_PHOTOS = ("edit", "apply")  # commands whose arguments are photos, which may lie in a bucket
_FILES = ("-o", "--out", "--recipe", "--junit", "--state")  # their options that take a path
_WRITING = ("edit", "run", "plan")  # commands whose output folder may be in a bucket
_OUT = ("-o", "--out")
_OF_RUNS = ("run", "retry", "status", "check", "deliver", "sheet", "report", "apply", "verify")  # that take a run


def is_address(text: str) -> bool:
    """Whether a path is written like an address of the net or of a store."""
    return _ADDRESS.match(text) is not None


def is_location(text: str) -> bool:
    """Whether a text is the address of a bucket, or of what is in it, that may be read."""
    try:
        return is_object(text) and bool(read_location(text))
    except LocationError:
        return False


def unfit(text: str, shown: str = "") -> tuple[str, str]:
    """Why an address is no path, and what to write instead. What may hold a secret is not quoted, as somebody would
    write it down.
    """
    try:
        if is_object(text):
            read_location(text)
    except LocationError as error:
        return str(error), error.hint
    return f"{shown or text} is an address and no path", _HINT_OBJECT if is_object(text) else HINT


def hub_hint(text: str) -> str:
    """What to write instead of an address where a folder or a repository of the hub is meant."""
    match = _HUB.fullmatch(text)
    if match is None:
        return "name a folder of this machine, or owner/name@revision of the hub"
    revision = match["revision"] and f"@{match['revision']}"
    return f"the hub's are written owner/name: {match['repo']}{revision or ''}"


def refuse_addresses(arguments: Sequence[str]) -> None:
    """Raises UsageError where a command line names an address as a path, after the option where there is one."""
    if arguments[:1] and arguments[0] in _NO_PATHS:
        return
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else (option, "=", argument)
        if equals and is_address(value) and name not in _WORDS:
            if arguments[0] in _PHOTOS and name not in _FILES and is_location(value):
                continue
            if arguments[0] in _WRITING and name in _OUT and is_location(value):
                continue
            why, hint = unfit(value)
            hint = _HINT_RUN if not name and arguments[0] in _OF_RUNS and is_location(value) else hint
            raise UsageError(f"{name}{': ' if name else ''}{why}", hint=hint)
        option = argument if argument.startswith("-") else ""
