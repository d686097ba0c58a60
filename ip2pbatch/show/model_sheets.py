"""Contact sheets that compare models: photo × model, one an edit, and model × scale where scales vary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.show.cells import Cell, Gallery, aligned, grouped, largest
from ip2pbatch.show.page import Tile
from ip2pbatch.show.paging import Draft
from ip2pbatch.show.table import Row, Table
from ip2pbatch.show.tiles import (
    IN_THE_PAPER,
    USUAL,
    box_of,
    column_of,
    facts_of,
    instruction_of,
    lines_of,
    nearest,
    slug_of,
    source_tile,
    tile_of,
    values_of,
)


def model_sheets(gallery: Gallery, settings: Sheet) -> Iterator[Draft]:
    """The sheets of a gallery of several models: of each edit photo × model, of one photo all edits on one sheet; and
    model × scale of each photo.
    """
    last = [cell for cell in gallery.cells if cell.link == cell.links]
    photos = list(dict.fromkeys(cell.photo for cell in last))
    if len(photos) == 1:
        yield from _by_model(last, "models", instruction_of(last[0]) if _one(last) else photos[0], gallery, settings)
    else:
        for column, group in grouped(last, column_of).items():
            yield from _by_model(group, f"models-{slug_of(column[0])}", instruction_of(group[0]), gallery, settings)
    for column, group in grouped(last, column_of).items():
        if any(len({cell.guidance for cell in own}) > 1 for own in grouped(group, lambda cell: cell.model).values()):
            for photo, own in grouped(group, lambda cell: cell.photo).items():
                slug = f"scales-{slug_of(column[0])}-{slug_of(photo.rpartition('.')[0] or photo)}"
                yield _by_scale(own, slug, gallery, settings)


def _one(cells: Sequence[Cell]) -> bool:
    return len({column_of(cell) for cell in cells}) == 1


def _by_model(
    cells: Sequence[Cell], slug: str, subject: str, gallery: Gallery, settings: Sheet
) -> Iterator[Draft]:  # fmt: skip
    """A row a photo and edit, a column a model; one a seed, by rank, since seeds that hang on the photo differ."""
    groups = grouped(cells, lambda cell: (cell.photo, column_of(cell), cell.model))
    ranks = max(len({cell.seed for cell in group}) for group in groups.values())
    several = not _one(cells)
    for rank in range(ranks):
        cells_of_rank = (nearest(group, rank, gallery.usual.get(model, USUAL)) for (*_, model), group in groups.items())
        chosen = [cell for cell in cells_of_rank if cell is not None]
        rows = []
        for own in grouped(chosen, lambda cell: (cell.photo, column_of(cell))).values():
            at = {cell.model: _tile(cell, several, settings) for cell in own}
            tiles = (at.get(model) for model in gallery.models)
            rows.append(Row(source_tile(largest(own)), (*tiles, *_not_made(gallery))))
        heads = (*gallery.models, *gallery.absent)
        table = Table(tuple(rows), heads, box_of(chosen, settings.cell, lines=2))
        name = f"{slug}-seed{rank + 1}" if ranks > 1 else slug
        said = f"{subject}{f', seed {rank + 1} of {ranks}' if ranks > 1 else ''}"
        yield Draft(name, said, (*facts_of(chosen), IN_THE_PAPER), table)


def _tile(cell: Cell, several: bool, settings: Sheet) -> Tile:
    """Of a sheet of `several` edits it says which; the heading says what the only one is."""
    if several:
        return tile_of(cell, instruction_of(cell), values_of(cell), settings)
    return tile_of(cell, *lines_of(cell), settings)


def _not_made(gallery: Gallery) -> Iterator[Tile]:
    """A tile of each model that has no cell, with the reason."""
    return (Tile("", "", state="missing", reason=f"not made: {why}") for why in gallery.absent.values())


def _by_scale(cells: Sequence[Cell], slug: str, gallery: Gallery, settings: Sheet) -> Draft:
    """A row a model, and where the image scale varies too a row of each; a column a scale, from weak to strong.

    Families differ in their scales, so columns are places in their order, and each caption says the value.
    """
    rows: list[Row] = []
    for (model, _), group in grouped(cells, lambda cell: (cell.model, cell.seed)).items():
        for label, own in _lines(model, group):
            tiles = (tile_of(cell, *lines_of(cell), settings) for cell in own)
            rows.append(Row(None, tuple(tiles), label))
    rows += [Row(None, (tile,), model) for model, tile in zip(gallery.absent, _not_made(gallery), strict=True)]
    widest = max(len(row.tiles) for row in rows)
    rows = [replace(row, tiles=row.tiles + (None,) * (widest - len(row.tiles))) for row in rows]
    rows[0] = replace(rows[0], source=replace(source_tile(largest(cells)), second=""))
    first = cells[0]
    table = Table(
        tuple(rows), _heads(cells, widest), box_of(cells, settings.cell, lines=2), "guidance, from weak to strong"
    )
    return Draft(
        slug, f"{instruction_of(first)}   ({first.photo})", (*facts_of(cells), IN_THE_PAPER), table, whole=True
    )


def _lines(model: str, group: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    """The rows of a model's cells of one seed: one, or one an image scale where both scales vary."""
    texts, images = {cell.guidance.text for cell in group}, aligned(cell.guidance.image for cell in group)
    ordered = sorted(group, key=lambda cell: (cell.guidance.text, cell.guidance.image))
    if len(texts) == 1 or len(images) == 1:
        yield model, ordered
        return
    for image, said in images.items():
        yield f"{model}, image {said}", [cell for cell in ordered if cell.guidance.image == image]


def _heads(cells: Sequence[Cell], widest: int) -> tuple[str, ...]:
    """The text scales, where all models have the same; else nothing, for each caption says its own."""
    own = grouped(cells, lambda cell: cell.model).values()
    texts, *others = {tuple(sorted({cell.guidance.text for cell in group})) for group in own}
    if others or len(texts) != widest:
        return ("",) * widest
    return tuple(f"text {said}" for said in aligned(texts).values())
