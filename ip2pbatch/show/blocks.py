"""Where cells stand in the report: a section a photo, and in it blocks of those that are looked at together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ip2pbatch.show.cells import Cell, aligned, grouped, largest, strips_of
from ip2pbatch.show.proof import Proof


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as the page shows it: what stands in `src`, and its width and height in pixels."""

    src: str
    width: int
    height: int


def photos_of(
    cells: Sequence[Cell], cards: Sequence[dict[str, Any]], pictures: Mapping[Proof, Shown], absent: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A section a photo: its source, then its single edits, its guidance grids and its chains; where models are
    compared its edits, and of each model beside model, with the reason of those that are `absent`.
    """
    photos = []
    for name, own in grouped(zip(cells, cards, strict=True), lambda pair: pair[0].photo).items():
        source = source_of([cell for cell, _ in own])
        tried = next((cell for cell, _ in own if cell.state != "missing"), own[0][0])
        shown = pictures.get(source, Shown("", 0, 0)) if source else Shown("", 0, 0)
        blocks = [*_compared(own, absent)] if own[0][0].model else _blocks(own)
        photos.append({
            "name": name, "src": shown.src, "width": shown.width, "height": shown.height, "blocks": blocks,
            "unread": tried.unread,
        })  # fmt: skip
    return photos


def source_of(own: Sequence[Cell]) -> Proof | None:
    """The photo before these edits of it, of those that models saw the largest; None where none saw it yet."""
    source = largest(own).source
    return None if source is None else Proof(source)


Pair = tuple[Cell, dict[str, Any]]
Block = dict[str, Any]


def _blocks(pairs: Sequence[Pair]) -> list[Block]:
    single = [pair for pair in pairs if pair[0].links == 1]
    linked = [pair for pair in pairs if pair[0].links > 1]
    flow: list[dict[str, Any]] = []
    grids = []
    for own in grouped(single, lambda pair: (pair[0].edit, pair[0].instruction, pair[0].seed)).values():
        if _both_vary(own):
            grids.append(_grid(own, own[0][0].instruction))
        else:
            flow.extend(card for _, card in own)
    return [*([{"kind": "flow", "cells": flow}] if flow else []), *grids, *_chains(linked)]


def _compared(pairs: Sequence[Pair], absent: Mapping[str, str]) -> Iterator[Block]:
    """The blocks of each edit: models side by side; where scales vary a row a model, or a grid of both scales a model.
    Chains are a strip each.
    """
    for own in grouped(pairs, lambda pair: (pair[0].edit, *pair[0].chain, pair[0].links)).values():
        if own[0][0].links > 1:
            yield from _chains(own)
            continue
        models = grouped(own, lambda pair: (pair[0].model, pair[0].seed))
        said = own[0][0].instruction
        if all(len(group) == 1 for group in models.values()):
            yield {"kind": "models", "title": said, "cells": [card for _, card in own], "absent": absent}
        elif any(map(_both_vary, models.values())):
            yield from (_grid(group, f"{said}, {model}") for (model, _), group in models.items())
        else:
            yield _rows(models, said) | {"absent": absent}


def _both_vary(own: Sequence[Pair]) -> bool:
    scales = {cell.guidance for cell, _ in own}
    return len(scales) > max(len({g.text for g in scales}), len({g.image for g in scales}))


def _rows(models: Mapping[tuple[str, int], Sequence[Pair]], title: str) -> Block:
    """A row a model and seed, scales from weak to strong."""
    several = len({seed for _, seed in models}) > 1
    rows = []
    for (model, seed), group in models.items():
        ordered = sorted(group, key=lambda pair: (pair[0].guidance.text, pair[0].guidance.image))
        rows.append((f"{model}, seed {seed}" if several else model, [card for _, card in ordered]))
    return {"kind": "rows", "title": title, "rows": rows, "columns": max(len(cells) for _, cells in rows)}


def _chains(pairs: Sequence[Pair]) -> Iterator[Block]:
    card_of = {id(cell): card for cell, card in pairs}
    for strip in strips_of(cell for cell, _ in pairs):
        first = strip[0]
        said = filter(None, (first.model, first.told, f"seed {first.seed}"))
        title = f"Chain {first.edit}: {', '.join(said)}"
        yield {"kind": "chain", "title": title, "cells": [card_of[id(cell)] for cell in strip]}


def _grid(own: Sequence[Pair], title: str) -> Block:
    texts, images = aligned(c.guidance.text for c, _ in own), aligned(c.guidance.image for c, _ in own)
    at = {(cell.guidance.text, cell.guidance.image): card for cell, card in own}
    rows = [(images[image], [at.get((text, image)) for text in texts]) for image in images]
    return {
        "kind": "grid", "title": f"{title}, seed {own[0][0].seed}", "heads": list(texts.values()), "rows": rows
    }  # fmt: skip
