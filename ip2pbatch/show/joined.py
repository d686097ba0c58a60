"""The cells of several models' runs as one gallery: what is asked of a photo stands together, model beside model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from ip2pbatch.plan.unedited import Passed
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.show.cells import Cell, Gallery, gallery, grouped, strips_of

NOTHING: Mapping[str, str] = MappingProxyType({})


def joined(
    name: str, views: Mapping[str, RunView], absent: Mapping[str, str], why: Mapping[str, str] = NOTHING
) -> Gallery:
    """One gallery of the runs in `views`, by their models' names; `absent` says of others why there is no run, and
    `why` of a model that has one what kept it from going on.
    """
    each = {model: gallery(view) for model, view in views.items()}
    strips = [strip for model, own in each.items() for strip in _strips(model, own, why.get(model, ""))]
    cells = (cell for photo in grouped(strips, _photo).values() for cell in _side_by_side(photo))
    backends = dict.fromkeys(own.backend for own in each.values())
    unreadable = {photo: why for own in each.values() for photo, why in own.unreadable.items()}
    usual = {model: own for model, view in views.items() if (own := _usual(view)) is not None}
    return Gallery(
        name, ", ".join(each), ", ".join(backends), tuple(cells), unreadable, _passed(each),
        models=(*each,), usual=usual, absent=absent,
    )  # fmt: skip


def _usual(view: RunView) -> tuple[float, float] | None:
    """The scales that the run's model was begun with; None where an older run does not say."""
    defaults = next((session.defaults for session in reversed(view.sessions) if session.defaults), None)
    return None if defaults is None else (defaults.text, defaults.image)


def _side_by_side(strips: list[list[Cell]]) -> Iterator[Cell]:
    """The cells of a photo, edit by edit."""
    return (cell for edit in grouped(strips, _edit).values() for strip in edit for cell in strip)


def _strips(model: str, own: Gallery, why: str) -> Iterator[list[Cell]]:
    return ([_of_model(cell, model, why) for cell in strip] for strip in strips_of(own.cells))


def _of_model(cell: Cell, model: str, why: str) -> Cell:
    """The cell with its model; one that was never made says `why` where that is known."""
    if why and cell.state == "missing":
        return replace(cell, model=model, detail=f"not made: {why}")
    return replace(cell, model=model)


def _photo(strip: list[Cell]) -> str:
    return strip[0].photo


def _edit(strip: list[Cell]) -> tuple[str, ...]:
    """What makes strips comparable: the edit's name and all its instructions."""
    return (strip[0].edit, *strip[0].chain)


def _passed(each: Mapping[str, Gallery]) -> tuple[Passed, ...]:
    """They looked at the same folders: what the first saw that saw anything."""
    return next((own.passed for own in each.values() if own.passed), ())
