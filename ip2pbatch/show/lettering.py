"""Type on a sheet: measured, wrapped and elided so that no letter is ever clipped or drawn as an empty box.

The face is Aileron, which Pillow carries (`ImageFont.load_default`), so that sheets look alike on every machine. It
has few letters beyond ASCII: another character is drawn in a font of the system that has it, else without its
accent, else as its code point.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont

# Searched by Pillow in the system's font folders; the first that has a character draws it.
SYSTEM_FACES = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc",
    "msgothic.ttc", "PingFang.ttc", "Arial Unicode.ttf", "Symbola.ttf", "seguisym.ttf",
)  # fmt: skip
ELLIPSIS = "…"
# s_T and s_I, as the paper writes the scales: the capital is set small and low.
SUBSCRIPT = re.compile(r"(?<![A-Za-z0-9])s_([TI])(?![A-Za-z0-9])")
# Letters that do not decompose into a base letter and an accent.
PLAIN = {
    "—": "-",
    "–": "-",
    "×": "x",
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "→": ">",
}


@lru_cache(maxsize=256)
def _face(name: str, size: int) -> Font | None:
    try:
        font = ImageFont.load_default(size) if not name else ImageFont.truetype(name, size)
    except OSError:
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@lru_cache(maxsize=1)
def _system_faces() -> tuple[str, ...]:
    return tuple(name for name in SYSTEM_FACES if _face(name, 32) is not None)


@lru_cache(maxsize=64)
def _notdef(name: str) -> bytes:
    face = _face(name, 32)
    return b"" if face is None else bytes(face.getmask("\ue000"))


@lru_cache(maxsize=8192)
def _has(name: str, char: str) -> bool:
    face = _face(name, 32)
    return face is not None and bytes(face.getmask(char)) != _notdef(name)


@lru_cache(maxsize=8192)
def _spell(char: str) -> tuple[str, str]:
    """(face name, characters to draw) for one character: the face's own, another face's, or a plain spelling."""
    if char.isspace():
        return "", " "
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co"}:  # controls and bidi marks could disturb the line
        return "", ""
    for name in ("", *_system_faces()):
        if _has(name, char):
            return name, char
    plain = PLAIN.get(char) or "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
    if plain and plain != char and all(_has("", c) for c in plain):
        return "", plain
    return "", f"[{ord(char):X}]"


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """`text` cut into pieces of one face each, as (face name, piece)."""
    face, piece = "", ""
    for char in text:
        name, drawn = _spell(char)
        if name != face and drawn.strip() and piece:
            yield face, piece
            piece = ""
        if drawn.strip() or not piece:
            face = name
        piece += drawn
    if piece:
        yield face, piece


def _pieces(text: str, size: int) -> Iterator[tuple[Font, str, int]]:
    """(font, characters, pixels below the baseline) in reading order, subscripts of the two scales included."""
    at = 0
    for match in [*SUBSCRIPT.finditer(text), None]:
        for name, piece in _runs(text[at : match.start() + 1 if match else len(text)]):
            font = _face(name, size)
            if font is not None:
                yield font, piece, 0
        if match:
            small = _face("", max(8, round(size * 0.72)))
            if small is not None:
                yield small, match.group(1), round(size * 0.16)
            at = match.end()


def width(text: str, size: int) -> int:
    """Width of one line of `text` in pixels at a type size of `size` pixels."""
    return round(sum(font.getlength(piece) for font, piece, _ in _pieces(text, size)))


def line_height(size: int) -> int:
    """Pixels from one baseline to the next."""
    return round(size * 1.35)


def draw_line(
    page: Image.Image, xy: tuple[int, int], text: str, *, size: int, fill: str, bold: bool = False
) -> None:  # fmt: skip
    """Draw one line with its top left at `xy`, in a box `line_height(size)` tall."""
    pen, x = ImageDraw.Draw(page), float(xy[0])
    baseline = xy[1] + round(size * 1.02)
    # Aileron comes in one weight here: a thin outline makes the bold one.
    stroke = size / 56 if bold else 0.0
    for font, piece, drop in _pieces(text, size):
        pen.text((x, baseline + drop), piece, font=font, fill=fill, anchor="ls", stroke_width=stroke)
        x += font.getlength(piece)


def draw_line_to(
    page: Image.Image, xy: tuple[int, int], text: str, *, size: int, fill: str, bold: bool = False
) -> None:  # fmt: skip
    """`draw_line` with the top right of the line at `xy`."""
    draw_line(page, (xy[0] - width(text, size), xy[1]), text, size=size, fill=fill, bold=bold)


def elide(text: str, size: int, room: int) -> str:
    """`text` in at most `room` pixels: its middle gives way to an ellipsis, since file names differ at both ends."""
    text = re.sub(r"[\t\r\n\f\v]+", " ", text).strip()
    if width(text, size) <= room:
        return text
    low, high = 0, len(text) - 1
    while low < high:  # the most characters that fit
        keep = (low + high + 1) // 2
        low, high = (keep, high) if width(_without_middle(text, keep), size) <= room else (low, keep - 1)
    return _without_middle(text, low) if low or width(ELLIPSIS, size) <= room else ""


def _without_middle(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    tail = keep - head
    return text[:head].rstrip() + ELLIPSIS + (text[len(text) - tail :].lstrip() if tail else "")


def wrap(text: str, size: int, room: int, lines: int) -> list[str]:
    """`text` in at most `lines` lines of `room` pixels; a word that is too long is broken, what is left over elided."""
    words = [part for word in text.split() for part in _fit_word(word, size, room)]
    done: list[str] = []
    line = ""
    for at, word in enumerate(words):
        longer = f"{line} {word}".strip()
        if width(longer, size) <= room:
            line = longer
        elif len(done) == lines - 1:
            return [*done, elide(" ".join([line, *words[at:]]), size, room)]
        else:
            done.append(line)
            line = word
    return [*done, line] if line else done


def _fit_word(word: str, size: int, room: int) -> list[str]:
    parts: list[str] = []
    while width(word, size) > room and len(word) > 1:
        cut = max(1, int(len(word) * room / max(1, width(word, size))))
        while cut > 1 and width(word[:cut], size) > room:
            cut -= 1
        parts.append(word[:cut])
        word = word[cut:]
    parts.append(word)
    return [part if width(part, size) <= room else ELLIPSIS for part in parts]
