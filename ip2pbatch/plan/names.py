"""Names of delivered files: a template filled for every link that is kept, safe on every file system, no name twice."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.edits import Plan, Strip
from ip2pbatch.plan.formats import FORMATS, by_suffix
from ip2pbatch.plan.written.template import FORBIDDEN, UNDATED, Template

if TYPE_CHECKING:
    from ip2pbatch.plan.written.outputs import Output

SHEETS = "sheets"  # the folder of contact sheets beside the delivered files
MAX_BYTES = 255  # of one part of a path, on all common file systems
_ROOM = 20  # of those, for what others add: a suffix, `-2`, a temporary name

# What varies a picture, in the order in which it is appended to a name that does not mention it.
_AXES = {"text": "_t{text}", "image": "_i{image}", "seed": "_s{seed}", "link": "_{link}"}
# The same of what one recipe has once, and a further `edit` into the same folder may change.
_SETTINGS = {"steps": "_{}steps", "sampler": "_{}", "size": "_{}px"}
_FIRST = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"))  # what the first version read
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")

# (strip's index in the plan, link counted from 1) → something about that picture
Place = tuple[int, int]


def output_names(
    plan: Plan, output: Output, dates: Mapping[str, datetime] | None = None, numbers: Mapping[str, int] | None = None
) -> dict[Place, str]:
    """The path below the output folder, with forward slashes, of every kept link: {(strip's index, link): path}.

    `dates` are capture dates and `numbers` the `{n}` by photo name; without them `undated` and the place in the plan.
    An axis that varies within one photo and edit, and that the template does not mention, is appended. Names that are
    taken on disk are not looked at. Raises PlanError for two results on one name (case and Unicode form aside).
    """
    parsed = Template.parse(output.name)
    numbers = numbers or {photo.name: place for place, photo in enumerate(plan.photos, start=1)}
    ends = {axis: Template.parse(end) for axis, end in _AXES.items()}
    varying = _varying(plan)
    names: dict[Place, str] = {}
    taken: dict[str, Place] = {}
    for index, strip in sorted(enumerate(plan.strips), key=lambda one: _gives_way(one[1])):
        extension = _extension(output, strip.photo.name)
        shared = _values(strip) | {
            "n": numbers[strip.photo.name], "date": (dates or {}).get(strip.photo.name, UNDATED)
        }  # fmt: skip
        varies = varying.get(_row(strip), ())
        appended = [end for axis, end in ends.items() if axis in varies and axis not in parsed.fields]
        for link in strip.keep:
            values = shared | {"link": link}
            more = "".join([*(end.fill(values) for end in appended), *_settings(strip, varies)])
            name = safe_path(parsed.fill(values), more + extension)
            place = index, link
            if _gives_way(strip) and _folded(name) in taken:
                name = safe_path(parsed.fill(values), f"{more}_{_suffix(strip.photo.name)[1:].lower()}{extension}")
            other = taken.setdefault(_folded(name), place)
            if other != place:
                _refuse(plan, name, other, place)
            names[place] = name
    return names


def safe_path(path: str, end: str) -> str:
    """`path` + `end` such that every file system takes it: no part is empty, `..`, reserved, too long or absolute."""
    parts = [part for part in path.split("/") if part.strip(" .")] or ["photo"]
    if len(parts) > 1 and parts[0].casefold() == SHEETS:
        parts[0] = f"_{parts[0]}"
    return "/".join([*(_safe_part(part, "") for part in parts[:-1]), _safe_part(parts[-1], end)])


def _safe_part(part: str, end: str) -> str:
    text = FORBIDDEN.sub("-", unicodedata.normalize("NFC", part)).strip().rstrip(". ")
    if text.startswith("."):
        text = "_" + text[1:]  # hidden files would be lost from sight, and .ip2pbatch is the run's own
    room = MAX_BYTES - _ROOM - len(end.encode())
    if len(text.encode()) > room:  # the end of a name tells edits apart, so its hash stays
        tail = "~" + hashlib.sha256(text.encode()).hexdigest()[:8]
        text = text.encode()[: room - len(tail)].decode(errors="ignore").rstrip(". ") + tail
    if _RESERVED.match(text + end):
        text = "_" + text
    return (text or "photo") + end


def _values(strip: Strip) -> dict[str, object]:
    folder, _, file = strip.photo.name.rpartition("/")
    stem = file[: -len(_suffix(file))] if _suffix(file) else file
    scales = {"text": strip.guidance.text, "image": strip.guidance.image}
    return {"folder": folder, "stem": stem, "edit": strip.id, "seed": strip.seed, **scales}


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:] if dot > name.rfind("/") + 1 else ""


def _extension(output: Output, photo: str) -> str:
    """Of a delivered file: with `same` the photo's own, or that of what is written in its stead."""
    if output.format != "same":
        return FORMATS[output.format].suffixes[0]
    own = _suffix(photo)
    kind = by_suffix(own)
    delivered = kind.delivered(output.raw) if kind else ""
    return own if kind is None or delivered == kind.name else FORMATS[delivered].suffixes[0]


def _gives_way(strip: Strip) -> bool:
    """Whether a name goes to other photos first, such as a_winter.jpg to a.jpg and not to a.gif, which is told apart.

    So runs from before such photos were read go on, and no name of theirs changes.
    """
    return _suffix(strip.photo.name).lower() not in _FIRST


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _settings(strip: Strip, varies: Collection[str]) -> Iterator[str]:
    edit = strip.edits[0]
    for name, value in (("steps", edit.steps), ("sampler", edit.sampler), ("size", max(edit.size))):
        if name in varies:
            yield _SETTINGS[name].format(value)


def _row(strip: Strip) -> tuple[str, str]:
    return strip.photo.name, strip.id


def _varying(plan: Plan) -> dict[tuple[str, str], set[str]]:
    """The axes with more than one value, of the photos and edits that have such axes."""
    first: dict[tuple[str, str], Strip] = {}
    varying: dict[tuple[str, str], set[str]] = defaultdict(set)
    for strip in plan.strips:
        other = first.setdefault(_row(strip), strip)
        if other is not strip:
            one, two = strip.guidance, other.guidance
            pairs = {"text": (one.text, two.text), "image": (one.image, two.image), "seed": (strip.seed, other.seed)}
            varying[_row(strip)].update(axis for axis, (new, old) in pairs.items() if new != old)
            new, old = strip.edits[0], other.edits[0]
            varying[_row(strip)].update(name for name in _SETTINGS if getattr(new, name) != getattr(old, name))
        if len(strip.keep) > 1:
            varying[_row(strip)].add("link")
    return varying


def _refuse(plan: Plan, name: str, first: Place, second: Place) -> None:
    who = [f"{plan.strips[index].photo.name} ({plan.strips[index].id}, link {link})" for index, link in (first, second)]
    raise PlanError(
        f"{who[0]} and {who[1]} would both be {name!r}",
        hint="add {folder}, {stem} or {edit} to output.name, or give one of the edits another id",
    )
