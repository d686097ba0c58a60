"""Names of delivered files: a template filled for every link that is kept, safe on every file system, no name twice."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.edits import Plan, Strip
from ip2pbatch.plan.yaml_source import Mistake, suggest

if TYPE_CHECKING:
    from ip2pbatch.plan.recipe import Output

FIELDS = ("folder", "stem", "edit", "text", "image", "seed", "link", "n", "date")
SHEETS = "sheets"  # the folder of contact sheets beside the delivered files
UNDATED = "undated"
MAX_BYTES = 255  # of one part of a path, on all common file systems
_ROOM = 20  # of those, for what others add: a suffix, `-2`, a temporary name

# What varies a picture, in the order in which it is appended to a name that does not mention it.
_AXES = {"text": "_t{text}", "image": "_i{image}", "seed": "_s{seed}", "link": "_{link}"}
_EXTENSIONS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPECS = {
    "number": re.compile(r"0?\d{0,2}(?:\.\d{1,2})?[fdg]?"),
    "date": re.compile(r"(?:%[YmdHMSyjb]|[-_. ]|\w)*"),
}
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\/\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')

# (strip's index in the plan, link counted from 1) → something about that picture
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed name template: texts and (field, format spec) pairs in turn. Nothing in it is ever evaluated."""

    parts: tuple[str | tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises Mistake for an unknown field or a format spec that its field has not."""
        parts: list[str | tuple[str, str]] = []
        last = 0
        for match in _FIELD.finditer(text):
            parts.append(text[last : match.start()])
            last = match.end()
            if match[1] is None and match[0] in ("{", "}"):
                raise Mistake(f"a single {match[0]} in {text!r}", hint="write {{ or }} for a brace")
            parts.append(match[0][0] if match[1] is None else _field(match[1], text))
        return cls((*parts, text[last:]))

    @property
    def fields(self) -> set[str]:
        return {part[0] for part in self.parts if isinstance(part, tuple)}

    def fill(self, values: Mapping[str, object]) -> str:
        """The name, still as a path with forward slashes, each value made safe within its part of the path."""
        return "".join(part if isinstance(part, str) else _filled(*part, values[part[0]]) for part in self.parts)


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
    for index, strip in enumerate(plan.strips):
        extension = _EXTENSIONS.get(output.format) or _suffix(strip.photo.name)
        shared = _values(strip) | {
            "n": numbers[strip.photo.name], "date": (dates or {}).get(strip.photo.name, UNDATED)
        }  # fmt: skip
        varies = varying.get(_row(strip), ())
        appended = [end for axis, end in ends.items() if axis in varies and axis not in parsed.fields]
        for link in strip.keep:
            values = shared | {"link": link}
            more = "".join(end.fill(values) for end in appended)
            name = safe_path(parsed.fill(values), more + extension)
            place = index, link
            other = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), place)
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
    text = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", part)).strip().rstrip(". ")
    if text.startswith("."):
        text = "_" + text[1:]  # hidden files would be lost from sight, and .ip2pbatch is the run's own
    room = MAX_BYTES - _ROOM - len(end.encode())
    if len(text.encode()) > room:  # the end of a name tells edits apart, so its hash stays
        tail = "~" + hashlib.sha256(text.encode()).hexdigest()[:8]
        text = text.encode()[: room - len(tail)].decode(errors="ignore").rstrip(". ") + tail
    if _RESERVED.match(text + end):
        text = "_" + text
    return (text or "photo") + end


def _field(inner: str, template: str) -> tuple[str, str]:
    name, _, spec = inner.partition(":")
    if name not in FIELDS:
        hint = suggest(name, FIELDS) or f"known are: {', '.join('{' + field + '}' for field in FIELDS)}"
        raise Mistake(f"{{{inner}}} in {template!r} is not known", hint=hint)
    if name == "date":
        fits = _SPECS["date"].fullmatch(spec) is not None
    else:
        fits = not spec or (name not in ("folder", "stem", "edit") and bool(_SPECS["number"].fullmatch(spec)))
        fits = fits and not (name in ("seed", "link", "n") and ("." in spec or spec.endswith(("f", "g"))))
        fits = fits and not (name in ("text", "image") and spec.endswith("d"))
    if not fits:
        raise Mistake(f"{spec!r} is no format of {{{name}}}", hint="such as {n:04d}, {text:.1f}, {date:%Y%m%d}")
    return name, spec


def _filled(name: str, spec: str, value: object) -> str:
    if isinstance(value, datetime):
        text = value.strftime(spec or "%Y%m%d")
    elif isinstance(value, str) or (isinstance(value, float) and not spec):
        text = value if isinstance(value, str) else _number(value)
    else:
        text = format(value, spec)
    if name == "folder":
        return "/".join(_FORBIDDEN.sub("-", part) for part in text.split("/") if part.strip(" ."))
    return _FORBIDDEN.sub("-", text)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _values(strip: Strip) -> dict[str, object]:
    folder, _, file = strip.photo.name.rpartition("/")
    stem = file[: -len(_suffix(file))] if _suffix(file) else file
    scales = {"text": strip.guidance.text, "image": strip.guidance.image}
    return {"folder": folder, "stem": stem, "edit": strip.id, "seed": strip.seed, **scales}


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:] if dot > name.rfind("/") + 1 else ""


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
        if len(strip.keep) > 1:
            varying[_row(strip)].add("link")
    return varying


def _refuse(plan: Plan, name: str, first: Place, second: Place) -> None:
    who = [f"{plan.strips[index].photo.name} ({plan.strips[index].id}, link {link})" for index, link in (first, second)]
    raise PlanError(
        f"{who[0]} and {who[1]} would both be {name!r}",
        hint="add {folder}, {stem} or {edit} to output.name, or give one of the edits another id",
    )
