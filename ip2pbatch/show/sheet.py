"""Contact sheets: which there are, and what is on each.

Each only where it says something: an overview of photos × instructions; strips of chains, source → link 1 → link 2 …;
per photo and edit a grid of s_T × s_I, one a seed, or where one scale varies a sheet with a row a photo. A sheet is a
view: it can be deleted and made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.events import Counting, uncounted
from ip2pbatch.show.cells import Cell, Gallery, aligned, gallery, grouped, strips_of
from ip2pbatch.show.model_sheets import model_sheets
from ip2pbatch.show.page import Tile
from ip2pbatch.show.paging import Draft, draw_drafts
from ip2pbatch.show.table import Row, Table
from ip2pbatch.show.tiles import (
    HOW_TO_READ,
    IN_THE_PAPER,
    box_of,
    column_of,
    counted,
    facts_of,
    instruction_of,
    lines_of,
    nearest,
    slug_of,
    source_tile,
    tile_of,
    values_of,
)


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
    return draw_drafts(sheets_of(gallery, settings), gallery, out, settings.cell, root, counting)


def sheets_of(gallery: Gallery, settings: Sheet) -> Iterator[Draft]:
    """The sheets of `gallery`: an overview where there is more than one thing to see, chains, guidance; of several
    models those that compare them.
    """
    if gallery.models:
        yield from model_sheets(gallery, settings) if gallery.cells else ()
        return
    drawn = [*_chains(gallery.cells, settings), *_guidances(gallery.cells, settings)]
    last = [cell for cell in gallery.cells if cell.link == cell.links]
    photos, columns = {cell.photo for cell in last}, {column_of(cell) for cell in last}
    if len(columns) > 1 or (len(photos) > 1 and not all(c.links > 1 for c in last)) or not drawn:
        yield from _overviews(last, settings)
    yield from drawn


# --- the kinds of sheets -----------------------------------------------------------------------------------------


def _overviews(last: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    """One a seed: by rank, since seeds that hang on the photo differ from row to row."""
    last = _without_holes(last)
    groups = grouped(last, lambda cell: (cell.photo, column_of(cell)))
    ranks = max((len({cell.seed for cell in group}) for group in groups.values()), default=0)
    for rank in range(ranks):
        chosen = {place: cell for place, group in groups.items() if (cell := nearest(group, rank)) is not None}
        slug = f"overview-seed{rank + 1}" if ranks > 1 else "overview"
        yield _overview(chosen, f", seed {rank + 1} of {ranks}" if ranks > 1 else "", slug, settings)


def _without_holes(last: Sequence[Cell]) -> Sequence[Cell]:
    """The cells without the columns of few photos that have sheets of their own: a chain, a grid."""
    photos = {cell.photo for cell in last}
    kept: list[Cell] = []
    for group in grouped(last, column_of).values():
        own_sheet = group[0].links > 1 or len({cell.guidance for cell in group}) > 1
        if not own_sheet or 2 * len({cell.photo for cell in group}) > len(photos):
            kept.extend(group)
    return kept or last


def _overview(chosen: dict[tuple[str, tuple[str, ...]], Cell], seeds: str, slug: str, settings: Sheet) -> Draft:
    photos = list(dict.fromkeys(photo for photo, _ in chosen))
    columns = list(dict.fromkeys(column for _, column in chosen))
    box = box_of(chosen.values(), settings.cell, lines=2)
    heads = tuple(instruction_of(next(cell for (_, c), cell in chosen.items() if c == column)) for column in columns)
    rows: list[Row] = []
    # Instructions of single photos would make a table of holes: each row then closes up, its captions say what is what.
    packed = len(chosen) < 0.5 * len(photos) * len(columns)
    for photo in photos:
        own = {column: cell for (name, column), cell in chosen.items() if name == photo}
        tiles = [
            tile_of(own[c], instruction_of(own[c]), values_of(own[c]), settings) if c in own else None for c in columns
        ]
        if packed:
            tiles = [tile for tile in tiles if tile is not None]
        rows.append(Row(source_tile(next(iter(own.values()))), tuple(tiles)))
    if packed:
        widest = max(len(row.tiles) for row in rows)
        heads = ("",) * widest
        rows = [replace(row, tiles=row.tiles + (None,) * (widest - len(row.tiles))) for row in rows]
    subject = f"{counted(len(photos), 'photo')}, {counted(len(columns), 'instruction')}{seeds}"
    return Draft(slug, subject, (*facts_of(list(chosen.values())), IN_THE_PAPER), Table(tuple(rows), heads, box))


def _chains(cells: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    chains = [cell for cell in cells if cell.links > 1]
    for column, group in grouped(chains, column_of).items():
        box = box_of(group, settings.cell, lines=2)
        heads = tuple(f"{at}. {instruction}" for at, instruction in enumerate(column[1:], start=1))
        rows = []
        for strip in strips_of(group):
            links = {cell.link: cell for cell in strip}
            tiles = tuple(
                tile_of(links[at], f"{at}. {links[at].instruction}", values_of(links[at]), settings)
                if at in links
                else None
                for at in range(1, len(heads) + 1)
            )
            rows.append(Row(source_tile(strip[0]), tiles))
        table = Table(tuple(rows), heads, box, arrows=True)
        yield Draft(f"chain-{slug_of(column[0])}", f"chain {column[0]}", (*facts_of(group), IN_THE_PAPER), table)


def _guidances(cells: Sequence[Cell], settings: Sheet) -> Iterator[Draft]:
    """Where guidance varies: a grid a photo and seed where both scales do, else one sheet an edit, a row a photo."""
    last = [cell for cell in cells if cell.link == cell.links]
    for column, group in grouped(last, column_of).items():
        own = {cell.guidance for cell in group}
        texts, images = {g.text for g in own}, {g.image for g in own}
        if len(own) == 1:
            continue
        if len(own) > max(len(texts), len(images)):
            for one in grouped(group, lambda cell: (cell.photo, cell.seed)).values():
                first = one[0]
                slug = (
                    f"grid-{slug_of(first.photo.rpartition('.')[0] or first.photo)}-{slug_of(first.edit)}-{first.seed}"
                )
                subject = f"{instruction_of(first)}   ({first.photo})"
                facts = (*facts_of(one), ("seed", str(first.seed)))
                yield Draft(slug, subject, facts, _grid(one, settings), whole=True)
        elif group[0].links == 1:  # a chain's own sheet has a row for every guidance
            yield Draft(f"guidance-{slug_of(column[0])}", column[1], facts_of(group), _sweep_table(group, settings))


def _grid(group: Sequence[Cell], settings: Sheet) -> Table:
    texts, images = aligned(c.guidance.text for c in group), aligned(c.guidance.image for c in group)
    at = {(cell.guidance.text, cell.guidance.image): cell for cell in group}

    def at_scales(text: float, image: float) -> Tile | None:
        cell = at.get((text, image))
        return tile_of(cell, f"text {texts[text]}, image {images[image]}", "", settings) if cell else None

    source = replace(source_tile(group[0]), second="")
    rows = [Row(None, tuple(at_scales(text, image) for text in texts), images[image]) for image in images]
    rows[0] = replace(rows[0], source=source)
    box = box_of(group, settings.cell, lines=1)
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
        tiles = [tile_of(at[g], *lines_of(at[g]), settings) if g in at else None for g in pairs]
        rows.append(Row(source_tile(row[0]), tuple(tiles)))
    return Table(tuple(rows), tuple(heads), box_of(group, settings.cell, lines=2), column_axis=axis)
