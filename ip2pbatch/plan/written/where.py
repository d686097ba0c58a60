"""Where in a photo an edit is made, as a person writes it: a mask, boxes, polygons, or what is found in it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, StrictBool, ValidationInfo, WithJsonSchema, model_validator

from ip2pbatch.plan.defaults import SEGMENTER
from ip2pbatch.plan.edits import FEATHER, Missing, Polygon, SoughtKind
from ip2pbatch.plan.written.compared import model_path
from ip2pbatch.plan.written.part import RecipePath, Written
from ip2pbatch.plan.written.yaml_source import Mistake

_PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
_BOX = {"type": "array", "items": _PERCENT, "minItems": 4, "maxItems": 4}
_POINT = {"type": "array", "items": _PERCENT, "minItems": 2, "maxItems": 2}
_POLYGON = {"type": "array", "items": _POINT, "minItems": 3}
Find = Literal["faces", "subject", "background"]

_KINDS = "region: faces, masks/, {box: [0, 0, 100, 40]} or {words: the sky}"
_MOST_WORDS = 200
_MOST = 1000  # points of a polygon: what has more is better drawn into a mask
_BOX_HINT = "box: [left, top, right, bottom] in per cent of the photo, such as [0, 0, 100, 40]"
_POLYGON_HINT = "polygon: [[across, down], …] in per cent of the photo, such as [[0, 0], [100, 0], [50, 60]]"


def _percent(value: Any, hint: str, at: tuple[str | int, ...]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise Mistake(f"{value!r} is not a number from 0 to 100", hint=hint, at=at)
    return float(value)


def _is_nested(value: Any, depth: int) -> bool:
    """Whether `value` is lists within lists, `depth` deep."""
    return isinstance(value, (list, tuple)) and (depth == 1 or (len(value) > 0 and _is_nested(value[0], depth - 1)))


def _several(value: Any, depth: int, hint: str) -> list[Any]:
    """One shape, whose lists are `depth` deep, or a list of such, as a list."""
    if not _is_nested(value, depth):
        raise Mistake("is not read as one", hint=hint)
    return list(value) if _is_nested(value, depth + 1) else [value]


def _boxes(value: Any) -> tuple[tuple[float, ...], ...]:
    many = _is_nested(value, 2)
    found = []
    for place, box in enumerate(_several(value, 1, _BOX_HINT)):
        at: tuple[str | int, ...] = (place,) if many else ()
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise Mistake("a box has four numbers", hint=_BOX_HINT, at=at)
        left, top, right, bottom = (_percent(side, _BOX_HINT, (*at, side_at)) for side_at, side in enumerate(box))
        if left >= right or top >= bottom:
            raise Mistake("the box is empty: left < right, and top < bottom", hint=_BOX_HINT, at=at)
        found.append((left, top, right, bottom))
    return tuple(found)


def _polygons(value: Any) -> tuple[Polygon, ...]:
    many = _is_nested(value, 3)
    found = []
    for place, polygon in enumerate(_several(value, 2, _POLYGON_HINT)):
        at: tuple[str | int, ...] = (place,) if many else ()
        points = tuple(_point(point, (*at, corner)) for corner, point in enumerate(polygon))
        if len(set(points)) < 3 or not _area(points):
            raise Mistake("a polygon has at least three points that are not in one line", hint=_POLYGON_HINT, at=at)
        if len(points) > _MOST:
            raise Mistake(f"a polygon has at most {_MOST:,} points", hint="draw a mask instead", at=at)
        found.append(points)
    return tuple(found)


def _point(point: Any, at: tuple[str | int, ...]) -> tuple[float, float]:
    if not isinstance(point, (list, tuple)) or len(point) != 2:
        raise Mistake("a point has two numbers", hint=_POLYGON_HINT, at=at)
    return _percent(point[0], _POLYGON_HINT, (*at, 0)), _percent(point[1], _POLYGON_HINT, (*at, 1))


def _area(points: Polygon) -> float:
    """Twice the triangles between the first point and each two that follow, added: 0 where all are in a line."""
    (x0, y0), *rest = points
    return sum(abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) for (x1, y1), (x2, y2) in pairwise(rest))


class Shape(Written):
    """Where in a photo something is: a mask, boxes and polygons, or what a detector finds."""

    # fmt: off
    mask: RecipePath | None = Field(
        default=None, description="a picture whose white is edited, or a folder of such, named as the photos are"
    )
    box: Annotated[
        tuple[tuple[float, ...], ...], BeforeValidator(_boxes),
        WithJsonSchema({"anyOf": [_BOX, {"type": "array", "items": _BOX, "minItems": 1}]}),
    ] = Field(default=(), description="[left, top, right, bottom] in per cent of the photo, or several of these")
    polygon: Annotated[
        tuple[Polygon, ...], BeforeValidator(_polygons),
        WithJsonSchema({"anyOf": [_POLYGON, {"type": "array", "items": _POLYGON, "minItems": 1}]}),
    ] = Field(default=(), description="[[across, down], …] in per cent of the photo, or several of these")
    # fmt: on
    find: Find | None = Field(default=None, description="what is found in each photo: faces, subject or background")
    words: Annotated[str, Field(min_length=1, max_length=_MOST_WORDS)] | None = Field(
        default=None, description="what is found in each photo, in words, such as the sky"
    )
    model: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description=f"what finds words, subject and background: hub id or folder ({SEGMENTER})"
    )
    feather: Annotated[float, Field(ge=0, le=50)] = Field(
        default=FEATHER, description="how far around it the edit fades out, in per cent of the photo's short side"
    )
    grow: Annotated[float, Field(ge=-50, le=50)] = Field(
        default=0.0, description="by how much it is made larger (smaller where negative), in per cent of the short side"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            base, model = info.context if isinstance(info.context, Path) else Path.cwd(), value.get("model")
            return value | {"model": model_path(model, base)} if isinstance(model, str) else value
        if isinstance(value, str) and value.strip():
            return {"find": value} if value in get_args(Find) else {"mask": value}
        raise Mistake("should be faces, the path of a mask, or a mapping", hint="region: {box: [0, 0, 100, 40]}")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [self.mask is not None, bool(self.box or self.polygon), self.find is not None, self.words is not None]
        if sum(given) != 1:
            raise Mistake("one of a mask, boxes and polygons, find, and words", hint=_KINDS)
        if self.model is not None and self.kind in (None, "faces"):
            raise Mistake("is for words, subject and background", hint="remove model", at=("model",))
        return self

    @property
    def polygons(self) -> tuple[Polygon, ...]:
        """Its boxes and polygons."""
        corners = (
            ((left, top), (right, top), (right, bottom), (left, bottom)) for left, top, right, bottom in self.box
        )
        return (*corners, *self.polygon)

    @property
    def rest(self) -> dict[str, Any]:
        """What a Region's row says of it besides."""
        return {"grow": self.grow}

    @property
    def kind(self) -> SoughtKind | None:
        """What a detector looks for; None where it is drawn."""
        return "words" if self.words is not None else self.find


class Where(Shape):
    """The part of a photo that is edited; the rest of the delivered file is the photo."""

    invert: StrictBool = Field(default=False, description="edit everything else instead")
    missing: Missing = Field(
        default="skip", description="of a photo in which nothing is found: leave it out, or edit the whole of it"
    )

    @model_validator(mode="after")
    def _looks(self) -> Self:
        if "missing" in self.model_fields_set and self.kind is None:
            why = "is of what is looked for in a photo: faces, subject, background, words"
            raise Mistake(why, hint="remove missing", at=("missing",))
        return self

    @property
    def rest(self) -> dict[str, Any]:
        """What a Region's row says of it besides."""
        return {"grow": self.grow, "invert": self.invert, "missing": self.missing}


class Protected(Shape):
    """The part of a photo that an edit leaves as it is."""
