"""What an edit is called where nobody named it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Container, Sequence


def slug(instruction: str, most: int = 40) -> str:
    """A short name for an instruction: `make it winter, please` → `make-it-winter-please`; letters of any script."""
    text = unicodedata.normalize("NFC", instruction).lower()
    words = re.findall(r"[^\W_]+", text)
    name = words[0][:most] if words else "edit"
    for word in words[1:]:
        if len(name) + 1 + len(word) > most:
            break
        name += "-" + word
    return name


def name_of(instructions: Sequence[str]) -> str:
    """What an edit is called after the instructions of its links: the first and the last of them."""
    if len(instructions) == 1:
        return slug(instructions[0])
    return "-then-".join(slug(one, most=24) for one in dict.fromkeys((instructions[0], instructions[-1])))


def free(name: str, taken: Container[str]) -> str:
    """`name` with the first number from 2 on that makes it one of its own."""
    return next(one for number in itertools.count(2) if (one := f"{name}-{number}") not in taken)
