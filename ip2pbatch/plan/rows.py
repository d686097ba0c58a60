"""Which network rows a step of a batch of Edits needs, and the weights that combine them.

The two-way guidance of InstructPix2Pix (Brooks et al. 2023, eq. 3), as a sum over three noise estimates e(image, text):

    ê = (1 − s_I)·e(∅, ∅) + (s_I − s_T)·e(I, ∅) + s_T·e(I, T)

Written so, three savings are exact for every finite pair of scales: a row with a zero coefficient is never computed,
a row that several Edits ask for is computed once, and network calls are filled with rows rather than with Edits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ip2pbatch.plan.edits import Edit, Guidance


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a network call. `latent_of` and `image_of` are positions in the batch of Edits.

    `latent_of`: whose current latent goes in; `image_of`: whose source picture, None for zeros; `text`: the
    instruction or a negative, None for the empty text; `scales`: what a network that reads them is told.
    """

    latent_of: int
    image_of: int | None
    text: str | None
    scales: Guidance | None = None


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The unique rows of one step, and for each Edit the (row, coefficient) pairs whose sum is its guided noise.

    Coefficients are float32 values; their order is e(∅,∅), e(I,∅), e(I,T), whatever else is in the batch, so that the
    sum has the same bits in every batch.
    """

    rows: tuple[Row, ...]
    weights: tuple[tuple[tuple[int, float], ...], ...]


def plan_rows(edits: Sequence[Edit], step: int) -> RowPlan:
    """The rows that one `step` (counted from 0) of `edits` needs; the Edits share size, steps and sampler.

    At step 0 the latents of equal seeds are the same noise, so all cells of a grid share their rows, and e(∅, ∅) is
    shared by every photo of that seed. From step 1 on each Edit has a latent of its own.
    """
    rows: list[Row] = []
    known: dict[Row, int] = {}
    weights = []
    latents = _first_with(edit.seed for edit in edits) if step == 0 else range(len(edits))
    images = _first_with((edit.source, edit.carry) for edit in edits)
    for edit, latent, image in zip(edits, latents, images, strict=True):
        terms = []
        for with_image, text, coefficient in terms_of(edit):
            row = Row(latent, image if with_image else None, text, _told(edit))
            if row not in known:
                known[row] = len(rows)
                rows.append(row)
            terms.append((known[row], coefficient))
        weights.append(tuple(terms))
    return RowPlan(tuple(rows), tuple(weights))


def plan_tiles(edit: Edit, tiles: int) -> RowPlan:
    """The rows of a step of so many tiles of one refinement, each with a latent and a source of its own."""
    rows: list[Row] = []
    weights = []
    for tile in range(tiles):
        terms = terms_of(edit)
        weights.append(tuple((len(rows) + place, weight) for place, (_, _, weight) in enumerate(terms)))
        rows += [Row(tile, tile if with_image else None, text, _told(edit)) for with_image, text, _ in terms]
    return RowPlan(tuple(rows), tuple(weights))


def terms_of(edit: Edit) -> list[tuple[bool, str | None, float]]:
    """The terms (with image, text, coefficient) of ê whose coefficient is not zero; 1 to 3 of them, in a fixed order.

    The null text is what an Edit's `negative` takes the place of; None is the empty one. An instruction that is the
    null text has two terms with the image that become one. Embedded scales leave one: ê is what the network answers.
    """
    text, image = edit.guidance.text, edit.guidance.image
    words, null = edit.instruction or None, edit.negative or None
    if edit.guidance.embedded:
        return [(True, words, 1.0)]
    if words == null:
        terms: list[tuple[bool, str | None, float]] = [(False, null, 1 - image), (True, null, image)]
    else:
        terms = [(False, null, 1 - image), (True, null, image - text), (True, words, text)]
    rounded = [(with_image, words, _float32(coefficient)) for with_image, words, coefficient in terms]
    return [term for term in rounded if term[2] != 0]


def fill(rows: Sequence[Row], bucket: int) -> list[tuple[Row, ...]]:
    """Split `rows` into calls of exactly `bucket` rows, in order; only the end of the last call is padding.

    The calls' outputs, laid end to end, hold row i at position i. Padding repeats the last row. A fixed row count
    is what makes a picture independent of its neighbours: at one shape a row has the same bits in every place.
    """
    if bucket < 1:
        raise ValueError(f"a row bucket holds at least one row, not {bucket}")
    calls = [tuple(rows[start : start + bucket]) for start in range(0, len(rows), bucket)]
    if calls and len(calls[-1]) < bucket:
        calls[-1] += (calls[-1][-1],) * (bucket - len(calls[-1]))
    return calls


def count_rows(edits: Iterable[Edit], shared: set[object] | None = None) -> int:
    """Network rows that `edits` need over all their steps, each first step shared as if they ran in one batch; with
    `shared`, as if in one with those that were counted with it before, of other photos.

    Padding is not counted, nor are rows of what is refined. Sum it over the batches of a Schedule for what a run
    computes.
    """
    edits = tuple(edit for edit in edits if edit.refine is None)
    return first_rows(edits, shared) + sum((edit.steps - 1) * later_rows([edit]) for edit in edits)


def refined_rows(edit: Edit, tiles: int) -> int:
    """Network rows of a refinement of so many tiles, over all its steps."""
    assert edit.refine is not None, "only those have tiles"
    return tiles * edit.refine.steps_of(edit.steps) * len(terms_of(edit))


def first_rows(edits: Iterable[Edit], shared: set[object] | None = None) -> int:
    """Rows of the first step of `edits`, shared where size, steps, sampler and seed are the same. `shared` are those
    without an image that are counted already, which any other photo shares; those found here are added to it.
    """
    first, blank = set[object](), set[object]() if shared is None else shared
    before = len(blank)
    for edit in edits:
        kind, source = (edit.size, edit.steps, edit.sampler, edit.seed), (edit.source, edit.carry)
        for with_image, text, _ in terms_of(edit):
            (first if with_image else blank).add((kind, source if with_image else None, text, _told(edit)))
    return len(first) + len(blank) - before


def later_rows(edits: Iterable[Edit]) -> int:
    """Rows of each step of `edits` after the first."""
    return sum(len(terms_of(edit)) for edit in edits)


def asks_null(guidance: Guidance) -> bool:
    """Whether any row has the null text at these scales: none at text 1 and image 1, or where they are embedded."""
    if guidance.embedded:
        return False
    return _float32(1 - guidance.image) != 0 or _float32(guidance.image - guidance.text) != 0


def _told(edit: Edit) -> Guidance | None:
    return edit.guidance if edit.guidance.embedded else None


def _first_with(values: Iterable[object]) -> list[int]:
    """For each value the position of its first equal."""
    first: dict[object, int] = {}
    return [first.setdefault(value, position) for position, value in enumerate(values)]


def _float32(value: float) -> float:
    """`value` rounded to the nearest float32, as a tensor of weights would hold it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
