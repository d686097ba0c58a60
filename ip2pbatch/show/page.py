"""One printed page: tiles on a grid under a heading. It draws what it is handed and knows nothing of runs.

Everything hangs on two numbers, the cell's size and the type size that follows from it; the page is a neutral grey
(equal red, green and blue), so that it does not colour the judgement of the pictures on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ip2pbatch.errors import DamagedError
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.show import lettering
from ip2pbatch.show.proof import Proof

PAGE, MAT, RULE = "#e6e6e6", "#d3d3d3", "#b4b4b4"
INK, DIM = "#1b1b1b", "#565656"
BAR, BAR_INK, BAR_DIM = "#202020", "#f5f5f5", "#bdbdbd"
AMBER = "#f2b92f"
STATE_INK = {"failed": "#9b1c1c", "nan": "#9b1c1c", "damaged": "#9b1c1c", "flagged": "#7a4a00"}
STATE_HATCH = {"failed": "#d6b4b1", "nan": "#d6b4b1", "damaged": "#d6b4b1", "flagged": "#dcc79c"}


@dataclass(frozen=True, slots=True)
class Measure:
    """The distances of a page in pixels, all from the long side of a cell."""

    cell: int

    @property
    def text(self) -> int:
        """Type size of captions and labels."""
        return max(12, min(24, round(self.cell / 21)))

    @property
    def gap(self) -> int:
        """Between tiles."""
        return max(8, round(self.cell / 26))

    @property
    def margin(self) -> int:
        """Around the page."""
        return max(36, round(self.cell / 6.5))

    @property
    def pad(self) -> int:
        """From the edge of a caption to its letters."""
        return round(self.text * 0.6)

    def bar(self, lines: int) -> int:
        """Height of a caption of `lines` lines."""
        return lines * lettering.line_height(self.text) + round(self.text * 0.7)


@dataclass(frozen=True, slots=True)
class Tile:
    """One cell as drawn: a picture, or a hatched box with `state` and `reason`, over a caption that is part of it.

    `caption` and `second` are the caption's lines; as many of `aside` as there is room for stand at the first one's
    right. `mark` is a note across the foot of the picture.
    """

    caption: str
    second: str = ""
    aside: tuple[str, ...] = ()
    picture: Kept | Proof | None = None
    state: str = ""
    reason: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """The room for a tile: width and height of the picture area in pixels, and the lines of its caption."""

    width: int
    height: int
    lines: int


def tile_size(box: Box, measure: Measure) -> tuple[int, int]:
    """Width and height of a whole tile, caption included."""
    return box.width, box.height + measure.bar(box.lines)


def draw_tile(page: Image.Image, xy: tuple[int, int], tile: Tile, box: Box, measure: Measure) -> None:
    """Draw `tile` with its top left corner at `xy`. one that cannot be read becomes a hatched box."""
    x, y = xy
    pen = ImageDraw.Draw(page)
    state, reason = tile.state, tile.reason
    if tile.picture is not None:
        try:
            picture = fitted(tile.picture, box)
        except DamagedError as error:
            state, reason = "damaged", f"{error}: {error.hint}"
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            state, reason = "damaged", f"{error}: run the recipe again"
        else:
            pen.rectangle((x, y, x + box.width - 1, y + box.height - 1), fill=MAT)
            page.paste(picture, (x + (box.width - picture.width) // 2, y + (box.height - picture.height) // 2))
    if tile.picture is None or state:
        _draw_hatched(page, xy, state, reason, box, measure)
    if tile.mark:
        _draw_mark(page, xy, tile.mark, box, measure)
    _draw_caption(page, (x, y + box.height), tile, box, measure)


def fitted(one: Kept | Proof, box: Box) -> Image.Image:
    """A picture as large as fits into `box`, its aspect kept to the pixel's rounding. Raises DamagedError."""
    picture = (one if isinstance(one, Proof) else Proof(one)).open()
    scale = min(box.width / picture.width, box.height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _draw_hatched(page: Image.Image, xy: tuple[int, int], state: str, reason: str, box: Box, measure: Measure) -> None:
    patch = Image.new("RGB", (box.width, box.height), "#dcdcdc")
    pen = ImageDraw.Draw(patch)
    step = max(9, measure.text)
    for x in range(-box.height, box.width, step):
        pen.line((x, box.height, x + box.height, 0), fill=STATE_HATCH.get(state, "#c6c6c6"), width=max(2, step // 6))
    size = measure.text
    room = box.width - 2 * measure.gap - 2 * measure.pad
    height = lettering.line_height(size)
    most = max(1, (box.height - 2 * measure.gap - 2 * measure.pad - round(height * 1.3)) // height)
    lines = lettering.wrap(reason, size, room, min(6, most)) if reason else []
    tall = round(height * 1.2) + len(lines) * height + 2 * measure.pad
    top = (box.height - tall) // 2
    pen.rectangle((measure.gap, top, box.width - measure.gap - 1, top + tall - 1), fill=PAGE)
    left = measure.gap + measure.pad
    ink = STATE_INK.get(state, "#3d3d3d")
    lettering.draw_line(patch, (left, top + measure.pad), state, size=round(size * 1.15), fill=ink, bold=True)
    for at, line in enumerate(lines):
        place = (left, top + measure.pad + round(height * 1.2) + at * height)
        lettering.draw_line(patch, place, line, size=size, fill=INK)
    page.paste(patch, xy)


def _draw_mark(page: Image.Image, xy: tuple[int, int], mark: str, box: Box, measure: Measure) -> None:
    size = max(11, round(measure.text * 0.92))
    lines = lettering.wrap(mark, size, box.width - 2 * measure.pad, 2)
    height = lettering.line_height(size)
    tall = len(lines) * height + round(measure.text * 0.4)
    x, top = xy[0], xy[1] + box.height - tall
    ImageDraw.Draw(page).rectangle((x, top, x + box.width - 1, top + tall - 1), fill=AMBER)
    for at, line in enumerate(lines):
        place = (x + measure.pad, top + round(measure.text * 0.2) + at * height)
        lettering.draw_line(page, place, line, size=size, fill=INK)


def _draw_caption(page: Image.Image, xy: tuple[int, int], tile: Tile, box: Box, measure: Measure) -> None:
    x, y = xy
    tall, size = measure.bar(box.lines), measure.text
    ImageDraw.Draw(page).rectangle((x, y, x + box.width - 1, y + tall - 1), fill=BAR)
    top = y + (tall - box.lines * lettering.line_height(size)) // 2
    room = box.width - 2 * measure.pad
    small = max(11, round(size * 0.88))
    aside = _aside(tile, small, room - lettering.width(tile.caption, size) - 2 * measure.pad)
    place = (x + box.width - measure.pad, top + round((size - small) * 1.02))
    lettering.draw_line_to(page, place, aside, size=small, fill=BAR_DIM)
    first = room - (lettering.width(aside, small) + 2 * measure.pad if aside else 0)
    lettering.draw_line(
        page, (x + measure.pad, top), lettering.elide(tile.caption, size, first), size=size, fill=BAR_INK
    )
    if tile.second and box.lines > 1:
        line = lettering.elide(tile.second, size, room)
        lettering.draw_line(page, (x + measure.pad, top + lettering.line_height(size)), line, size=size, fill=BAR_DIM)


def _aside(tile: Tile, size: int, room: int) -> str:
    """As many of a tile's numbers as fit, one at the least."""
    for count in range(len(tile.aside), 1, -1):
        text = "   ".join(tile.aside[:count])
        if lettering.width(text, size) <= room:
            return text
    return tile.aside[0] if tile.aside else ""


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above the tiles: `facts` are (name, value) pairs, `folio` is the date and the page's number."""

    title: str
    subject: str
    facts: tuple[tuple[str, str], ...]
    folio: str


def heading_height(heading: Heading, measure: Measure, room: int) -> int:
    """Height of the heading in pixels when it is `room` wide, down to its rule and the space below."""
    t = measure.text
    subject = len(_subject_lines(heading, measure, room))
    facts = len(_fact_lines(heading.facts, measure, room))
    return (
        lettering.line_height(2 * t) + subject * lettering.line_height(_subject_size(measure))
        + round(0.7 * t) + facts * lettering.line_height(t) + 2 * t
    )  # fmt: skip


def _subject_size(measure: Measure) -> int:
    return round(measure.text * 1.35)


def _subject_lines(heading: Heading, measure: Measure, room: int) -> list[str]:
    return lettering.wrap(heading.subject, _subject_size(measure), room, 2)


def _fact_lines(facts: Sequence[tuple[str, str]], measure: Measure, room: int) -> list[list[tuple[str, str]]]:
    """The facts broken into lines; a value that is wider than the page is elided."""
    t = measure.text
    lines: list[list[tuple[str, str]]] = []
    used = room + 1
    for name, value in facts:
        value = lettering.elide(value, t, max(4 * t, room - lettering.width(name, t) - t))
        wide = lettering.width(name, t) + lettering.width(value, t) + round(2.25 * t)
        if used + wide - round(1.8 * t) > room:
            lines.append([])
            used = 0
        lines[-1].append((name, value))
        used += wide
    return lines


def draw_heading(page: Image.Image, heading: Heading, measure: Measure) -> None:
    """Draw the heading at the top of the page, between its margins."""
    t, left = measure.text, measure.margin
    right = page.width - measure.margin
    room, y = right - left, measure.margin
    folio = lettering.width(heading.folio, t)
    title = lettering.elide(heading.title, 2 * t, room - folio - 2 * t)
    lettering.draw_line(page, (left, y), title, size=2 * t, fill=INK, bold=True)
    lettering.draw_line_to(page, (right, y + t), heading.folio, size=t, fill=DIM)
    y += lettering.line_height(2 * t)
    for line in _subject_lines(heading, measure, room):
        lettering.draw_line(page, (left, y), line, size=_subject_size(measure), fill=INK)
        y += lettering.line_height(_subject_size(measure))
    y += round(0.7 * t)
    for facts in _fact_lines(heading.facts, measure, room):
        x = left
        for name, value in facts:
            lettering.draw_line(page, (x, y), name, size=t, fill=DIM)
            x += lettering.width(name, t) + round(0.45 * t)
            lettering.draw_line(page, (x, y), value, size=t, fill=INK)
            x += lettering.width(value, t) + round(1.8 * t)
        y += lettering.line_height(t)
    y += round(0.6 * t)
    ImageDraw.Draw(page).line((left, y, right - 1, y), fill=RULE, width=max(1, t // 12))
