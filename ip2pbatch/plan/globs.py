"""Globs over photo names: `*` and `?` stay within a folder, `**` crosses folders, `{jpg,png}` is either; case-blind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ip2pbatch.errors import PlanError

MAX_LENGTH = 200


def matcher(globs: Sequence[str]) -> Callable[[str], bool]:
    """A test whether a name (forward slashes, relative) matches any of `globs`. Raises PlanError for a broken one."""
    if not globs:
        return lambda name: False
    pattern = re.compile("|".join(f"(?:{translate(glob)})" for glob in globs), re.IGNORECASE | re.DOTALL)
    return lambda name: pattern.fullmatch(name) is not None


def below(globs: Sequence[str]) -> list[str]:
    """Globs of what lies in folders that match: an excluded folder takes all of it along."""
    return [f"{glob.rstrip('/')}/**" for glob in globs]


def exactly(name: str) -> str:
    """A glob that matches `name`; alone, unless it is longer than a glob may be."""
    parts = [f"[{char}]" if char in "[]*?{}" else char for char in name]
    if sum(map(len, parts)) <= MAX_LENGTH:
        return "".join(parts)
    return "".join(parts[:30]) + "**" + "".join(parts[-30:])


def translate(glob: str) -> str:
    """The regular expression of one glob, to be matched against a whole name."""
    if len(glob) > MAX_LENGTH:
        raise PlanError(
            f"the glob {glob[:30]!r}… is longer than {MAX_LENGTH} characters", hint="split it: globs may be a list"
        )
    text = re.sub(r"(?:\*\*/)+", "**/", glob.removeprefix("./"))
    pattern, at, open_braces = "", 0, 0
    while at < len(text):
        token = re.compile(r"\*\*/|\*+|\[[!^]?\]?[^]/]*\]|.", re.DOTALL).match(text, at)
        assert token is not None
        part, at = token[0], token.end()
        if part == "{":
            open_braces += 1
        elif part == "}" and open_braces:
            open_braces -= 1
        pattern += _TOKENS.get(part) or (_one(part, open_braces > 0))
    if open_braces:
        raise PlanError(
            f"the glob {glob!r} opens a {{ that it does not close", hint="close it, or write [{] for the sign"
        )
    return pattern


_TOKENS = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{": "(?:"}


def _one(part: str, in_braces: bool) -> str:
    if part.startswith("**"):
        return ".*"
    if part == "}":
        return ")"
    if part == "," and in_braces:
        return "|"
    if part.startswith("[") and len(part) > 2:
        inner = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]"
    return re.escape(part)
