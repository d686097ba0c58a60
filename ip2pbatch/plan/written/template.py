"""A name template: texts and fields, as a recipe has it. Nothing in it is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from ip2pbatch.plan.written.yaml_source import Mistake, suggest

if TYPE_CHECKING:
    pass


FIELDS = ("folder", "stem", "edit", "text", "image", "seed", "link", "n", "date")


UNDATED = "undated"


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


_SPECS = {
    "number": re.compile(r"0?\d{0,2}(?:\.\d{1,2})?[fdg]?"),
    "date": re.compile(r"(?:%[YmdHMSyjb]|[-_. ]|\w)*"),
}


FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\/\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


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
        parts = self.parts
        return "".join([part if isinstance(part, str) else _filled(*part, values[part[0]]) for part in parts])


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


@lru_cache(maxsize=4096, typed=True)  # most fields have few values
def _filled(name: str, spec: str, value: object) -> str:
    if isinstance(value, datetime):
        text = value.strftime(spec or "%Y%m%d")
    elif isinstance(value, str) or (isinstance(value, float) and not spec):
        text = value if isinstance(value, str) else _number(value)
    else:
        text = format(value, spec)
    if name == "folder":
        return "/".join(FORBIDDEN.sub("-", part) for part in text.split("/") if part.strip(" ."))
    return FORBIDDEN.sub("-", text)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
