"""Before any time is spent: what edits seek in photos is found, and regions with nothing in them are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ip2pbatch.errors import PhotoError, PlanError
from ip2pbatch.pictures.areas.coverage import coverage, unfound
from ip2pbatch.plan.regional.finders import FINDERS, opened
from ip2pbatch.run.masks import copy_masks, find, make_masks, masks_in, unmade, wanted_of

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.areas.coverage import Coverage, Found
    from ip2pbatch.plan.edits import Edit, Plan, Region, Strip
    from ip2pbatch.plan.written.recipe import Recipe
    from ip2pbatch.run.directory.layout import Layout
    from ip2pbatch.run.directory.ledger import Run
    from ip2pbatch.run.masks import Wanted
    from ip2pbatch.run.states import AlreadyDone

_THREADS = 4
_TOLD = 3
_COVERED = "nothing of its region is left"


def seeks(recipe: Recipe) -> bool:
    """Whether an edit is about what is found in photos."""
    shapes = [shape for spec in recipe.edits for shape in (spec.region, spec.protect)]
    shapes += [shape for spec in recipe.edits for link in spec.chain for shape in (link.region, link.protect)]
    return any(shape is not None and shape.kind is not None for shape in shapes)


def keep_masks(
    plan: Plan, run: Run, voice: Voice, wants: Callable[[Edit], bool] = lambda edit: True, kept: Layout | None = None
) -> None:
    """Have the run hold the mask of everything that the wanted Edits seek, of those that another run has `kept` a copy.

    Raises MissingError and ModelError where what finds something is not on this machine, ResourceError.
    """
    lacking = unmade(run.layout, wanted_of(plan, wants))
    if kept is not None:
        lacking = copy_masks(run, lacking, kept)
    if lacking:
        with voice.counting(_looking(lacking), len(lacking)) as advance:
            make_masks(run, lacking, opened, advance)


def settle_unmatched(plan: Plan, run: Run, voice: Voice) -> None:
    """Record those Edits that are left and find nothing to edit, and tell of them: they are left out.

    Raises PlanError where a region that was drawn is of no pixel, or its mask is no whole picture.
    """
    left = [(strip, edit) for strip, edit in regional(plan) if edit.key not in run.done]
    empty = refuse_empty(left, masks_in(run.layout), voice)
    for text in unmatched(left, empty):
        voice.warn(text)
    for edit in plan.edits if empty else ():  # parents come before children
        if edit.carry is not None and edit.source in empty:
            empty[edit.key] = f"not tried: of what it starts from there is none: {empty[edit.source]}"
        if edit.key in empty:
            run.fail(edit.key, "unmatched", empty[edit.key])


def is_settled(plan: Plan, run: Run, done: AlreadyDone) -> bool:
    """Whether nothing of the plan is left to make, of which `done` need no engine."""
    return all(run.records.status(plan.edits[place].key) == "unmatched" for place in done.lacking())


def found_now(strips: Sequence[Strip], voice: Voice) -> Found:
    """The masks of what these strips' Edits seek, found for this once. Raises MissingError, ModelError."""
    from ip2pbatch.plan.edits import Plan

    wanted = [*wanted_of(Plan("", "", (), strips, ()))]
    masks: dict[str, Coverage] = {}

    def keep(one: Wanted, mask: Coverage) -> None:
        masks[one.name] = mask

    def found(region: Region) -> Coverage:
        assert region.sought is not None, "only what is sought is asked for"
        mask = masks.get(region.sought.mask_name(region.photo))
        return unfound(region) if mask is None else mask

    if wanted:
        with voice.counting(_looking(wanted), len(wanted)) as advance:
            find(wanted, opened, keep, advance)
    return found


def _looking(wanted: Iterable[Wanted]) -> str:
    return f"looking for {', '.join(dict.fromkeys(one.sought.called for one in wanted))}"


def regional(plan: Plan) -> Iterable[tuple[Strip, Edit]]:
    """The Edits of the plan that have a region, each with a strip that it is in."""
    return ((strip, edit) for strip in plan.strips for edit in strip.edits if edit.region is not None)


def refuse_empty(edits: Iterable[tuple[Strip, Edit]], found: Found, voice: Voice) -> dict[str, str]:
    """Make the regions of these Edits once, at the size that the model sees: the keys of those in which nothing that
    was sought is to be edited, and why.

    Raises PlanError where another one is of no pixel, or its mask is no whole picture.
    """
    wanted: dict[tuple[Region, tuple[int, int]], tuple[str, list[str]]] = {}
    for strip, edit in edits:
        if edit.region is not None:
            where = f"{strip.photo.name} ({strip.id})"
            wanted.setdefault((edit.region, edit.size), (where, []))[1].append(edit.key)
    if not wanted:
        return {}
    with voice.busy("looking at the regions"), ThreadPoolExecutor(_THREADS) as pool:
        looked = pool.map(lambda item: _trouble(item[0], item[1][0], found), wanted.items())
        told = zip(wanted.items(), looked, strict=True)
        troubles = [(region, keys, why) for ((region, _), (_, keys)), why in told if why]
    wrong = [why for region, _, why in troubles if not region.looked_for]
    if wrong:
        more = f", and {len(wrong) - _TOLD:,} more like this" if len(wrong) > _TOLD else ""
        hint = "draw what is to be edited in white, or leave these photos to other edits with `photos`"
        raise PlanError("; ".join(wrong[:_TOLD]) + more, hint=hint)
    return {key: why for _, keys, why in troubles for key in keys}


def _trouble(at: tuple[Region, tuple[int, int]], where: str, found: Found) -> str:
    region, size = at
    try:
        if coverage(region, size, found).any():
            return ""
        return (
            _nothing(region, found)
            if region.looked_for
            else f"the region of {where} is empty: there is nothing to edit"
        )
    except PhotoError as error:
        if region.looked_for:  # of a photo that cannot be read, which its edit tells
            return ""
        return f"the mask of {where}: {error}"


def _nothing(region: Region, found: Found) -> str:
    """Why nothing is left of a region with what was sought."""
    if region.sought is None or found(region).any():
        return _COVERED
    sought = region.sought
    return f"{FINDERS[sought.kind].nothing} was found" + (f" that is {sought.called}" if sought.words else "")


def unmatched(edits: Iterable[tuple[Strip, Edit]], empty: Mapping[str, str]) -> Iterator[str]:
    """Of which photos nothing is edited, a line for an edit and a reason."""
    photos: dict[tuple[str, str], dict[str, None]] = {}
    for strip, edit in edits:
        if edit.key in empty:
            photos.setdefault((strip.id, empty[edit.key]), {})[strip.photo.name] = None
    for (name, why), names in photos.items():
        first, more = next(iter(names)), len(names) - 1
        rest = f" and {more:,} more" if more else ""
        whole = "; `missing: whole` in its region edits all of such a photo" if why != _COVERED else ""
        yield f"{name}: {why} in {first}{rest}: left out{whole}"
