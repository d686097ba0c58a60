"""Lists of numbers as people write them: `7.5`, `5, 7.5, 10`, `1..2 by 0.25`, counted in decimals, ends included; and
the size that a model works at.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt, WithJsonSchema, model_validator

from ip2pbatch.plan.written.part import Written
from ip2pbatch.plan.written.yaml_source import Mistake

MAX_VALUES = 1000
_LARGEST = 3.4e38  # weights are float32
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?:by\s*({_NUMBER}))?\s*")
_WRITTEN = re.compile(rf"\s*{_NUMBER}\s*|{_RANGE.pattern}")
_TIGHT = re.compile(r"(?<=\d),(?=\d)")
_SCHEMA_RANGE = r"^\s*[-+.\d].*$"

NUMBERS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": _SCHEMA_RANGE, "examples": ["1.0..2.0 by 0.25", "5, 7.5, 10"]},
        {"type": "array", "minItems": 1, "items": {"type": ["number", "string"]}},
    ]
}


def parse_numbers(text: str) -> list[float]:
    """`5,7.5,10` or `1..2 by 0.25` (parts may be mixed) as numbers; Mistake (a ValueError) says what is wrong.

    Ranges count in decimals, so that 1.0..2.0 by 0.1 holds 1.3 and not 1.3000000000000003; they may descend.
    `7,5` is refused: it may be a list, and it may be seven and a half.
    """
    _refuse_decimal_commas(text)
    numbers = [number for part in text.split(",") for number in _part(part)]
    if len(numbers) > MAX_VALUES:
        raise Mistake(f"{len(numbers)} numbers; {MAX_VALUES} at most", hint="take fewer, or a larger step")
    return numbers


def read_numbers(value: Any) -> tuple[float, ...]:
    """A number, a text for parse_numbers, or a list of both, as a recipe may give them; each number once, in order."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise Mistake("an empty list", hint="leave the key out for the model's own default")
    numbers: list[float] = []
    for place, item in enumerate(items):
        at = (place,) if isinstance(value, list) else ()
        try:
            numbers += _one(item)
        except Mistake as mistake:
            raise Mistake(mistake.why, hint=mistake.hint, at=at) from None
    if len(numbers) > MAX_VALUES:
        raise Mistake(f"{len(numbers)} numbers; {MAX_VALUES} at most", hint="take fewer, or a larger step")
    return tuple(dict.fromkeys(numbers))


def _one(item: Any) -> list[float]:
    if isinstance(item, str):
        return parse_numbers(item)
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise Mistake(
            f"{'nothing' if item is None else repr(item)} is not a number", hint="a number, a list, or 1..2 by 0.25"
        )
    return [_finite(item)]


def _refuse_decimal_commas(text: str) -> None:
    """Raise Mistake where a comma between digits may be a decimal one; `5,7.5` and `5,7,10` can only be lists."""
    decimal = _TIGHT.sub(".", text).strip()
    if decimal == text.strip() or not all(_WRITTEN.fullmatch(part) for part in decimal.split(",")):
        return
    if not all(_WRITTEN.fullmatch(part) for part in text.split(",")):
        raise Mistake(f"{text.strip()!r} has a decimal comma", hint=f"a decimal has a point: {decimal}")
    apart = ", ".join(part.strip() for part in text.split(","))
    raise Mistake(
        f"{text.strip()!r} may be {decimal}, and may be the list {apart}",
        hint=f'write {decimal} if it is a decimal, and "{apart}", with a space, if it is a list',
    )


def _part(part: str) -> list[float]:
    if re.fullmatch(rf"\s*{_NUMBER}\s*", part):
        return [_finite(float(part))]
    match = _RANGE.fullmatch(part)
    if not match:
        raise Mistake(f"{part.strip()!r} is not a number or a range", hint="for example 5, 7.5, 10 or 1..2 by 0.25")
    start, stop, step = Decimal(match[1]), Decimal(match[2]), Decimal(match[3] or 1)
    return _range(start, stop, step, part.strip())


def _range(start: Decimal, stop: Decimal, step: Decimal, text: str) -> list[float]:
    if step <= 0:
        raise Mistake(
            f"{text!r} has a step of {step}", hint="a step is above 0; a range descends when its end is lower"
        )
    steps = abs(stop - start) / step
    if steps >= MAX_VALUES:
        raise Mistake(f"{text!r} is more than {MAX_VALUES} numbers", hint="take a larger step")
    if steps != int(steps):
        last = start + int(steps) * step * (1 if stop > start else -1)
        raise Mistake(f"{text!r} does not reach its end: a step before it is {last}", hint=f"end it at {last}")
    direction = step if stop >= start else -step
    return [_finite(float(start + i * direction)) for i in range(int(steps) + 1)]


def _finite(number: float) -> float:
    if not -_LARGEST < number < _LARGEST:
        raise Mistake(f"{number} is not a finite number", hint="7.5, for example")
    return float(number) + 0.0  # -0.0 and 0.0 are one scale


Scales = Annotated[tuple[float, ...], BeforeValidator(read_numbers), WithJsonSchema(NUMBERS_SCHEMA)]
Steps = Annotated[StrictInt, Field(ge=1, le=1000)]


class Size(Written):
    """The size the model works at: never cropped, never squashed, the photo's own aspect. One of the two is set."""

    long_side: Annotated[StrictInt, Field(ge=16, le=8192)] | None = Field(
        default=None, description="pixels of the long side"
    )
    megapixels: Annotated[float, Field(gt=0, le=64)] | None = Field(
        default=None, description="area in millions of pixels"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"long_side": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _either(self) -> Size:
        if (self.long_side is None) == (self.megapixels is None):
            raise Mistake("either long_side or megapixels", hint="size: {long_side: 768}")
        return self
