"""How sheets fall into pages, and pages become files: none too large for a viewer, none a ribbon."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, PngImagePlugin

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.run.events import Counting, uncounted
from ip2pbatch.show.cells import Gallery, today
from ip2pbatch.show.page import PAGE, Heading, Measure
from ip2pbatch.show.table import Row, Table, draw_page, page_size

# Pillow warns above 89 megapixels and viewers choke earlier.
MAX_PIXELS = 50_000_000
# A page as tall as this many times its width is a ribbon: more pages read better. An A sheet is 1.41.
TALLEST = 1.45
SOFTWARE = "ip2pbatch sheet"


@dataclass(frozen=True, slots=True)
class Draft:
    """One sheet before it falls into pages. `whole` sheets are cut only where a page would be too large."""

    slug: str
    subject: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    whole: bool = False


def draw_drafts(
    drafts: Iterable[Draft],
    gallery: Gallery,
    out: Path,
    cell: int,
    root: Path | None = None,
    counting: Counting = uncounted,
) -> list[Path]:
    """Draw sheets as PNG pages in the folder `out`, with cells of `cell` pixels; the paths in order.

    With `root`, a folder above `out`, through no link below it. Pages that an earlier time drew there and this one does
    not are removed. Raises OSError or ResourceError where `out` cannot be written.
    """
    (root or out).mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken: set[str] = set()
    measure = Measure(cell)
    paged = [(sheet, pages_of(sheet, gallery, measure)) for sheet in drafts]
    with counting(sum(len(tables) for _, tables in paged)) as advance:
        for sheet, tables in paged:
            for at, table in enumerate(tables, start=1):
                page = draw_page(table, _heading(gallery, sheet, at, len(tables)), measure, PAGE)
                path = out / _file_name(sheet.slug, at, len(tables), taken)
                _save(page, path, f"{gallery.name}: {sheet.subject}", root)
                written.append(path)
                advance()
    _sweep(out, written)
    return written


def pages_of(sheet: Draft, gallery: Gallery, measure: Measure) -> list[Table]:
    """The tables of the pages of `sheet`, each under MAX_PIXELS, with rows shared out evenly."""
    table = sheet.table
    heading = _heading(gallery, sheet, 1, 1)

    def pixels(part: Table) -> int:
        width, height = page_size(part, heading, measure)
        return width * height

    columns = len(table.heads) if sheet.whole else min(len(table.heads), 12)
    while columns > 1 and pixels(_cut(table, 0, columns, 0, 1)) > MAX_PIXELS:
        columns = (columns + 1) // 2
    columns = _even(len(table.heads), columns)
    pages: list[Table] = []
    for left in range(0, len(table.heads), columns):
        strip = _cut(table, left, columns, 0, len(table.rows))
        blocks = max(1, min(3, 8 // (columns + 1))) if len(table.rows) > 6 and not (sheet.whole or table.arrows) else 1
        rows = len(table.rows)
        while rows > 1 and not _fits(
            replace(_cut(strip, 0, columns, 0, rows), blocks=blocks), heading, measure, sheet.whole
        ):
            rows -= 1
        rows = _even(len(table.rows), rows)
        for top in range(0, len(table.rows), rows):
            part = _cut(strip, 0, columns, top, rows)
            pages.append(replace(part, blocks=min(blocks, len(part.rows))))
    return pages


def _fits(table: Table, heading: Heading, measure: Measure, whole: bool) -> bool:
    width, height = page_size(table, heading, measure)
    few = len(table.rows) <= 3 * table.blocks
    return width * height <= MAX_PIXELS and (whole or few or height <= TALLEST * width)


def _even(count: int, most: int) -> int:
    """The size of a share when `count` things are dealt into as few shares of at most `most` as will do."""
    return max(1, math.ceil(count / math.ceil(count / max(1, most)))) if count else 1


def _cut(table: Table, left: int, columns: int, top: int, rows: int) -> Table:
    def part(row: Row, first: bool) -> Row:
        source = row.source or (table.rows[0].source if first else None)
        return replace(row, source=source, tiles=row.tiles[left : left + columns])

    chosen = table.rows[top : top + rows]
    return replace(
        table,
        rows=tuple(part(row, at == 0) for at, row in enumerate(chosen)),
        heads=table.heads[left : left + columns],
    )


def _heading(gallery: Gallery, sheet: Draft, at: int, of: int) -> Heading:
    # The fake has seen nothing of the model that the recipe names.
    backend = (("backend", gallery.backend),) if gallery.backend != "torch" else ()
    facts = (("model", gallery.model), *backend, *sheet.facts)
    return Heading(gallery.name, sheet.subject, facts, f"{today()}     page {at} of {of}")


def _file_name(slug: str, at: int, of: int, taken: set[str]) -> str:
    """A name no other page of this run has, also where case does not count."""
    page = f"-page{at:0{len(str(of))}d}" if of > 1 else ""
    name = f"{slug}{page}.png"
    for extra in itertools.count(2):
        if name.casefold() not in taken:
            break
        name = f"{slug}-{extra}{page}.png"
    taken.add(name.casefold())
    return name


def _save(page: Image.Image, path: Path, title: str, root: Path | None) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"sRGB", b"\x00")
    info.add_text("Software", SOFTWARE)
    info.add_itxt("Title", title)
    data = io.BytesIO()
    page.save(data, format="PNG", pnginfo=info, compress_level=4)
    write_atomic(path, data.getvalue(), root=root)


def _sweep(out: Path, written: Sequence[Path]) -> None:
    """Remove pages that an earlier time drew and this one did not; a picture of anyone else is left alone."""
    for path in set(out.glob("*.png")) - set(written):
        try:
            with Image.open(path, formats=("PNG",)) as image:
                ours = image.info.get("Software") == SOFTWARE
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if ours:
            path.unlink()
