"""What an edit is called where nobody named it."""

from __future__ import annotations

import re
import unicodedata


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
