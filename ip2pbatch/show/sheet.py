"""Contact sheets: which there are, what is on each, and how they fall into pages.

Each only where it says something: an overview of photos × instructions; strips of chains, source → link 1 → link 2 …;
per photo and edit a grid of s_T × s_I, one a seed, or where one scale varies a sheet with a row a photo. A sheet is a
view: it can be deleted and made again.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, PngImagePlugin

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.plan.metrics import METRICS
from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.events import Counting, uncounted
from ip2pbatch.show.cells import Cell, Gallery, aligned, gallery, grouped, number, strips_of, today, totals
from ip2pbatch.show.page import PAGE, Box, Heading, Measure, Tile
from ip2pbatch.show.table import Row, Table, draw_page, page_size

# Pillow warns above 89 megapixels and viewers choke earlier.
MAX_PIXELS = 50_000_000
# A page as tall as this many times its width is a ribbon: more pages read better. An A sheet is 1.41.
TALLEST = 1.45
# The guidance that a photo's one cell in the overview is taken nearest to: the paper's defaults.
USUAL_TEXT, USUAL_IMAGE = 7.5, 1.5
HOW_TO_READ = (
    "To the right, text guidance grows: the instruction pulls harder.",
    "Downwards, image guidance grows: the photo holds on harder.",
)
IN_THE_PAPER = ("text, image", "the guidance scales s_T, s_I")
SOFTWARE = "ip2pbatch sheet"


@dataclass(frozen=True, slots=True)
class Draft:
    """One sheet before it falls into pages. `whole` sheets are cut only where a page would be too large."""

    slug: str
    subject: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    whole: bool = False


def write_sheets(
    view: RunView, out: Path, settings: Sheet | None = None, counting: Counting = uncounted
) -> list[Path]:  # fmt: skip
    """Draw every sheet of a run as PNG pages in the folder `out`; the paths in order. `counting` hears of each page.

    Pages that an earlier time drew there and this one does not are removed. Raises ResourceError.
    """
    root = view.root if out.is_relative_to(view.root) else None
    return draw_sheets(gallery(view), out, settings or Sheet(), root, counting)


def draw_sheets(
    gallery: Gallery, out: Path, settings: Sheet, root: Path | None = None, counting: Counting = uncounted
) -> list[Path]:
    """`write_sheets` for cells that are already at hand; with `root`, a folder above `out`, through no link below it.

    Raises OSError or ResourceError where `out` cannot be written.
    """
    (root or out).mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken: set[str] = set()
    measure = Measure(settings.cell)
    drafts = [(sheet, pages_of(sheet, gallery, measure)) for sheet in sheets_of(gallery, settings)]
    with counting(sum(len(tables) for _, tables in drafts)) as advance:
        for sheet, tables in drafts:
            for at, table in enumerate(tables, start=1):
                page = draw_page(table, _heading(gallery, sheet, at, len(tables)), measure, PAGE)
                path = out / _file_name(sheet.slug, at, len(tables), taken)
                _save(page, path, f"{gallery.name}: {sheet.subject}", root)
                written.append(path)
                advance()
    _sweep(out, written)
    return written


def sheets_of(gallery: Gallery, settings: Sheet) -> Iterator[Draft]:
    """The sheets of `gallery`: an overview where there is more than one thing to see, chains, guidance."""
    drawn = [*_chains(gallery.cells, settings), *_guidances(gallery.cells, settings)]
    last = [cell for cell in gallery.cells if cell.link == cell.links]
    photos, columns = {cell.photo for cell in last}, {_column(cell) for cell in last}
    if len(columns) > 1 or (len(photos) > 1 and not all(c.links > 1 for c in last)) or not drawn:
        yield from _overviews(last, settings)
    yield from drawn


# --- the kinds of sheets -----------------------------------------------------------------------------------------


def _overviews(last: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    """One a seed: by rank, since seeds that hang on the photo differ from row to row."""
    last = _without_holes(last)
    groups = grouped(last, lambda cell: (cell.photo, _column(cell)))
    ranks = max((len({cell.seed for cell in group}) for group in groups.values()), default=0)
    for rank in range(ranks):
        chosen = {place: cell for place, group in groups.items() if (cell := _nearest(group, rank)) is not None}
        slug = f"overview-seed{rank + 1}" if ranks > 1 else "overview"
        yield _overview(chosen, f", seed {rank + 1} of {ranks}" if ranks > 1 else "", slug, settings)


def _without_holes(last: Sequence[Cell]) -> Sequence[Cell]:
    """The cells without the columns of few photos that have sheets of their own: a chain, a grid."""
    photos = {cell.photo for cell in last}
    kept: list[Cell] = []
    for group in grouped(last, _column).values():
        own_sheet = group[0].links > 1 or len({cell.guidance for cell in group}) > 1
        if not own_sheet or 2 * len({cell.photo for cell in group}) > len(photos):
            kept.extend(group)
    return kept or last


def _overview(chosen: dict[tuple[str, tuple[str, ...]], Cell], seeds: str, slug: str, settings: Sheet) -> Draft:
    photos = list(dict.fromkeys(photo for photo, _ in chosen))
    columns = list(dict.fromkeys(column for _, column in chosen))
    box = _box(chosen.values(), settings.cell, lines=2)
    heads = tuple(_instruction(next(cell for (_, c), cell in chosen.items() if c == column)) for column in columns)
    rows: list[Row] = []
    # Instructions of single photos would make a table of holes: each row then closes up, its captions say what is what.
    packed = len(chosen) < 0.5 * len(photos) * len(columns)
    for photo in photos:
        own = {column: cell for (name, column), cell in chosen.items() if name == photo}
        tiles = [_tile(own[c], _instruction(own[c]), _values(own[c]), settings) if c in own else None for c in columns]
        if packed:
            tiles = [tile for tile in tiles if tile is not None]
        rows.append(Row(_source(next(iter(own.values()))), tuple(tiles)))
    if packed:
        widest = max(len(row.tiles) for row in rows)
        heads = ("",) * widest
        rows = [replace(row, tiles=row.tiles + (None,) * (widest - len(row.tiles))) for row in rows]
    subject = f"{_count(len(photos), 'photo')}, {_count(len(columns), 'instruction')}{seeds}"
    return Draft(slug, subject, (*_facts(list(chosen.values())), IN_THE_PAPER), Table(tuple(rows), heads, box))


def _chains(cells: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    chains = [cell for cell in cells if cell.links > 1]
    for column, group in grouped(chains, _column).items():
        box = _box(group, settings.cell, lines=2)
        heads = tuple(f"{at}. {instruction}" for at, instruction in enumerate(column[1:], start=1))
        rows = []
        for strip in strips_of(group):
            links = {cell.link: cell for cell in strip}
            tiles = tuple(
                _tile(links[at], f"{at}. {links[at].instruction}", _values(links[at]), settings)
                if at in links
                else None
                for at in range(1, len(heads) + 1)
            )
            rows.append(Row(_source(strip[0]), tiles))
        table = Table(tuple(rows), heads, box, arrows=True)
        yield Draft(f"chain-{_slug(column[0])}", f"chain {column[0]}", (*_facts(group), IN_THE_PAPER), table)


def _guidances(cells: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    """Where guidance varies: a grid a photo and seed where both scales do, else one sheet an edit, a row a photo."""
    last = [cell for cell in cells if cell.link == cell.links]
    for column, group in grouped(last, _column).items():
        own = {cell.guidance for cell in group}
        texts, images = {g.text for g in own}, {g.image for g in own}
        if len(own) == 1:
            continue
        if len(own) > max(len(texts), len(images)):
            for one in grouped(group, lambda cell: (cell.photo, cell.seed)).values():
                first = one[0]
                slug = f"grid-{_slug(first.photo.rpartition('.')[0] or first.photo)}-{_slug(first.edit)}-{first.seed}"
                subject = f"{_instruction(first)}   ({first.photo})"
                facts = (*_facts(one), ("seed", str(first.seed)))
                yield Draft(slug, subject, facts, _grid(one, settings), whole=True)
        elif group[0].links == 1:  # a chain's own sheet has a row for every guidance
            yield Draft(f"guidance-{_slug(column[0])}", column[1], _facts(group), _sweep_table(group, settings))


def _grid(group: Sequence[Cell], settings: Sheet) -> Table:
    texts, images = aligned(c.guidance.text for c in group), aligned(c.guidance.image for c in group)
    at = {(cell.guidance.text, cell.guidance.image): cell for cell in group}

    def tile(text: float, image: float) -> Tile | None:
        cell = at.get((text, image))
        return _tile(cell, f"text {texts[text]}, image {images[image]}", "", settings) if cell else None

    source = replace(_source(group[0]), second="")
    rows = [Row(None, tuple(tile(text, image) for text in texts), images[image]) for image in images]
    rows[0] = replace(rows[0], source=source)
    box = _box(group, settings.cell, lines=1)
    heads = tuple(texts.values())
    return Table(tuple(rows), heads, box, "text guidance (s_T)", "image guidance (s_I)", note=HOW_TO_READ)


def _sweep_table(group: Sequence[Cell], settings: Sheet) -> Table:
    """One scale varies, or both in pairs: a column a value."""
    pairs = sorted({cell.guidance for cell in group}, key=lambda g: (g.text, g.image))
    texts, images = aligned(g.text for g in pairs), aligned(g.image for g in pairs)
    if len(images) == 1:
        heads, axis = [texts[g.text] for g in pairs], "text guidance (s_T)"
    elif len(texts) == 1:
        heads, axis = [images[g.image] for g in pairs], "image guidance (s_I)"
    else:
        heads, axis = (
            [f"text {texts[g.text]}, image {images[g.image]}" for g in pairs],
            "guidance (s_T, s_I)",
        )
    rows = []
    for row in grouped(group, lambda cell: (cell.photo, cell.seed)).values():
        at = {cell.guidance: cell for cell in row}
        seed = f"seed {row[0].seed}"
        tiles = [_tile(at[g], _values(at[g], seed=False), seed, settings) if g in at else None for g in pairs]
        rows.append(Row(_source(row[0]), tuple(tiles)))
    return Table(tuple(rows), tuple(heads), _box(group, settings.cell, lines=2), column_axis=axis)


# --- cells to tiles ----------------------------------------------------------------------------------------------


def _tile(cell: Cell, caption: str, second: str, settings: Sheet) -> Tile:
    shown = cell.state == "done" and cell.picture is not None
    aside = tuple(
        f"{METRICS[m].caption}  {cell.metrics[m]:.2f}" for m in settings.metrics if shown and m in cell.metrics
    )
    return Tile(
        caption, second, aside, picture=cell.proof if shown else None,
        state="" if shown else ("missing" if cell.state == "done" else cell.state),
        reason="" if shown else (cell.detail or ("not made yet" if cell.state == "missing" else "")),
        mark=cell.mark if shown else "",
    )  # fmt: skip


def _source(cell: Cell) -> Tile:
    missing = cell.source is None
    return Tile(
        cell.photo, "source", picture=cell.source, state="missing" if missing else "",
        reason=cell.unread if missing else "",
    )  # fmt: skip


def _values(cell: Cell, *, seed: bool = True) -> str:
    scales = f"text {number(cell.guidance.text)}, image {number(cell.guidance.image)}"
    return f"{scales}   seed {cell.seed}" if seed else scales


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _instruction(cell: Cell) -> str:
    return ", then ".join(cell.chain) if cell.links > 1 else cell.instruction


def _column(cell: Cell) -> tuple[str, ...]:
    """What makes two cells stand in one column: the edit's id and its instructions."""
    return (cell.edit, *(cell.chain or (cell.instruction,)))


def _box(cells: Iterable[Cell], cell: int, lines: int) -> Box:
    """One picture area for every cell: as wide as the widest and as tall as the tallest, at `cell` on the long side.

    Where squares or portraits meet landscapes, the height stops at 4/5 of the width: equal rows, nothing squashed.
    """
    sizes = [c.size for c in cells]
    scaled = [(w * cell / max(w, h), h * cell / max(w, h)) for w, h in sizes]
    wide, tall = max(w for w, _ in scaled), max(h for _, h in scaled)
    aspects = [w / h for w, h in sizes]
    if max(aspects) > 1.2 > 1.05 > min(aspects):
        tall = min(tall, 0.8 * cell)
    return Box(math.ceil(max(wide, 0.5 * cell)), math.ceil(max(tall, 0.3 * cell)), lines)


def _nearest(group: Sequence[Cell], rank: int) -> Cell | None:
    """The cell of the `rank`-th seed whose guidance is nearest to the usual one."""
    seeds = list(dict.fromkeys(cell.seed for cell in group))
    if rank >= len(seeds):
        return None
    own = [cell for cell in group if cell.seed == seeds[rank]]
    return min(
        own,
        key=lambda c: (
            abs(c.guidance.text - USUAL_TEXT) / USUAL_TEXT + abs(c.guidance.image - USUAL_IMAGE) / USUAL_IMAGE
        ),
    )


def _facts(cells: Sequence[Cell]) -> tuple[tuple[str, str], ...]:
    """What all cells of a sheet share, and how many of them there are."""
    facts = [("pictures", totals(cells))]
    told = {"sampler": {c.sampler for c in cells}, "negative": {c.negative for c in cells} - {""}}
    told["strength"] = {number(c.strength) for c in cells} - {"1"}
    for name, values in ({"steps": {str(c.steps) for c in cells}} | told).items():
        facts += [(name, ", ".join(sorted(values)))] if values else []
    return tuple(facts)


# --- pages -------------------------------------------------------------------------------------------------------


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


def _slug(text: str) -> str:
    """A part of a file name: letters, digits, dot and hyphen; never long, never empty."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._")[:60] or "x"


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
