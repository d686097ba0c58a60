"""The tiles of a page in columns and rows, each row led by its source, with headings and axes where there are any."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from ip2pbatch.show import lettering
from ip2pbatch.show.page import (
    DIM,
    INK,
    Box,
    Heading,
    Measure,
    Tile,
    draw_heading,
    draw_tile,
    heading_height,
    tile_size,
)

HEAD_LINES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A source (None where an earlier row showed it) and the tiles made from it; a None tile was not asked for."""

    source: Tile | None
    tiles: tuple[Tile | None, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of tiles. `heads` stand over the columns after the source's, `column_axis` and `row_axis` name the axes.

    `blocks` sets the rows side by side in that many blocks, so that two columns of 40 photos fill a page and not
    a ribbon. `arrows` lead from each tile to the next, as in a chain. `note` stands where the source's column is empty.
    """

    rows: tuple[Row, ...]
    heads: tuple[str, ...]
    box: Box
    column_axis: str = ""
    row_axis: str = ""
    blocks: int = 1
    arrows: bool = False
    note: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """Where things stand in one block of a table, in pixels from the block's top left corner."""

    columns: tuple[int, ...]  # left edges of the source's column and of every other
    label_right: int  # right edge of the rows' labels
    head: int  # baseline box of the last line of the heads
    top: int  # top of the first row
    step: int  # from row to row
    width: int


def lines_of(table: Table, measure: Measure) -> Lines:
    """The grid that everything in a block of `table` is aligned on."""
    t, gap = measure.text, measure.gap
    wide, tall = tile_size(table.box, measure)
    between = round(2.6 * t) if table.arrows else gap
    label = max((lettering.width(row.label, t) for row in table.rows), default=0)
    axis = round(lettering.line_height(t) * 1.3) if table.row_axis else 0
    first = wide + (between if table.arrows else round(2.2 * gap)) + axis + (label + round(0.8 * t) if label else 0)
    columns = (0, *(first + at * (wide + between) for at in range(len(table.heads))))
    head_lines = max((len(lettering.wrap(head, t, wide, HEAD_LINES)) for head in table.heads), default=1)
    top = (lettering.line_height(t) if table.column_axis else 0) + max(1, head_lines) * lettering.line_height(t)
    return Lines(columns, first - round(0.8 * t), top - lettering.line_height(t), top + round(0.35 * t), tall + gap,
                 columns[-1] + wide)  # fmt: skip


def _rows_per_block(table: Table) -> int:
    return -(-len(table.rows) // table.blocks)


def table_size(table: Table, measure: Measure) -> tuple[int, int]:
    """Width and height of `table` in pixels."""
    lines = lines_of(table, measure)
    between = round(2.2 * measure.margin * 0.5)
    width = table.blocks * lines.width + (table.blocks - 1) * between
    return width, lines.top + _rows_per_block(table) * lines.step - measure.gap


def page_size(table: Table, heading: Heading, measure: Measure) -> tuple[int, int]:
    """Width and height of the whole page in pixels, never too narrow for its heading."""
    width, height = table_size(table, measure)
    room = max(width, 46 * measure.text)
    above = measure.margin + heading_height(heading, measure, room)
    return room + 2 * measure.margin, above + height + measure.margin


def draw_page(table: Table, heading: Heading, measure: Measure, background: str) -> Image.Image:
    """One finished page, RGB."""
    size = page_size(table, heading, measure)
    page = Image.new("RGB", size, background)
    draw_heading(page, heading, measure)
    top = measure.margin + heading_height(heading, measure, size[0] - 2 * measure.margin)
    lines = lines_of(table, measure)
    between = round(2.2 * measure.margin * 0.5)
    per_block = _rows_per_block(table)
    for block in range(table.blocks):
        rows = table.rows[block * per_block : (block + 1) * per_block]
        corner = measure.margin + block * (lines.width + between), top
        if rows:
            _draw_heads(page, corner, table, lines, measure)
            _draw_rows(page, corner, rows, table, lines, measure)
    return page


def _draw_heads(page: Image.Image, corner: tuple[int, int], table: Table, lines: Lines, measure: Measure) -> None:
    t, height = measure.text, lettering.line_height(measure.text)
    x, y = corner
    lettering.draw_line(page, (x, y + lines.head), "source", size=t, fill=DIM)
    if table.column_axis:
        lettering.draw_line(page, (x + lines.columns[1], y), table.column_axis, size=t, fill=DIM)
    for head, left in zip(table.heads, lines.columns[1:], strict=True):
        words = lettering.wrap(head, t, table.box.width, HEAD_LINES)
        for at, line in enumerate(words):
            place = (x + left, y + lines.head - (len(words) - 1 - at) * height)
            lettering.draw_line(page, place, line, size=t, fill=INK, bold=True)


def _draw_rows(
    page: Image.Image, corner: tuple[int, int], rows: tuple[Row, ...], table: Table, lines: Lines, measure: Measure
) -> None:  # fmt: skip
    x, y = corner
    for at, row in enumerate(rows):
        top = y + lines.top + at * lines.step
        if row.source is not None:
            draw_tile(page, (x, top), row.source, table.box, measure)
        if row.label:
            place = (x + lines.label_right, top + (table.box.height - lettering.line_height(measure.text)) // 2)
            lettering.draw_line_to(page, place, row.label, size=measure.text, fill=INK, bold=True)
        for tile, left in zip(row.tiles, lines.columns[1:], strict=True):
            if tile is None:
                continue
            draw_tile(page, (x + left, top), tile, table.box, measure)
            if table.arrows:
                _draw_arrow(page, (x + left, top + table.box.height // 2), measure)
    if table.note and len(rows) > 1 and rows[1].source is None:
        _draw_note(page, (x, y + lines.top + lines.step), table, measure)
    if table.row_axis:
        tall = len(rows) * lines.step - measure.gap
        _draw_row_axis(page, (x, y + lines.top, tall), table, lines, measure)


def _draw_note(page: Image.Image, place: tuple[int, int], table: Table, measure: Measure) -> None:
    t, (x, y) = measure.text, place
    for paragraph in table.note:
        for line in lettering.wrap(paragraph, t, table.box.width, 6):
            lettering.draw_line(page, (x, y), line, size=t, fill=DIM)
            y += lettering.line_height(t)
        y += round(0.5 * t)


def _draw_arrow(page: Image.Image, tip: tuple[int, int], measure: Measure) -> None:
    """An arrow in the space left of a tile, drawn since the face has none."""
    t = measure.text
    x, y = tip[0] - round(0.7 * t), tip[1]
    pen = ImageDraw.Draw(page)
    pen.line((x - round(1.2 * t), y, x, y), fill=DIM, width=max(2, t // 9))
    wing = round(0.36 * t)
    pen.line((x - wing, y - wing, x, y, x - wing, y + wing), fill=DIM, width=max(2, t // 9), joint="curve")


def _draw_row_axis(
    page: Image.Image, place: tuple[int, int, int], table: Table, lines: Lines, measure: Measure
) -> None:  # fmt: skip
    x, top, tall = place
    t = measure.text
    text = lettering.elide(table.row_axis, t, tall)
    strip = Image.new("RGB", (lettering.width(text, t) + 2, lettering.line_height(t)), page.getpixel((0, 0)))
    lettering.draw_line(strip, (0, 0), text, size=t, fill=DIM)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    left = table.box.width + round(2.2 * measure.gap)
    page.paste(turned, (x + left, top))
