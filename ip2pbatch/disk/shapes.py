"""What a line of a journal must look like: the fields of a class, their types and bounds, checked as it is read."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from functools import cached_property
from operator import methodcaller
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ip2pbatch.disk.journal import parse_object, unseal

_ENCODED = methodcaller("encode", "utf-8", "surrogatepass")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""As `__pydantic_config__` of a class: no field but its own, no number from a text, no infinity."""


class Shaped(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Row = TypeVar("Row", bound=Shaped)


class Shape(Generic[Row]):
    """From a line to an instance of `kind`, a dataclass that is STRICT; None for anything else.

    A field that is not known makes a line bad where it has no checksum: there it may be a damaged name. Where the
    checksum is right a later version wrote it, and it is left out.
    """

    def __init__(self, kind: type[Row]) -> None:
        self._kind = kind
        self._names = frozenset(part.name for part in fields(kind))

    @cached_property
    def _adapter(self) -> TypeAdapter[Row]:
        return TypeAdapter(self._kind)

    def __call__(self, line: bytes) -> Row | None:
        opened = unseal(line)
        if opened is None:
            return None
        data, sealed = opened
        try:
            return self._adapter.validate_json(data)
        except ValidationError:
            return self._at_leisure(data, sealed)

    def _at_leisure(self, data: bytes, sealed: bool) -> Row | None:
        """A line with names of files that are not Unicode, which the quick way does not take, or of a later version."""
        row = parse_object(data)
        if row is None or not (sealed or _has_surrogates(data)):
            return None
        try:
            return self._adapter.validate_python(self.known(row) if sealed else row, strict=False)
        except ValidationError:
            return None

    def known(self, row: dict[str, Any]) -> dict[str, Any]:
        """The fields of a row that this version knows."""
        return {name: value for name, value in row.items() if name in self._names}


class Usual(Generic[Row]):
    """What is noted of the lines of a journal, a block of them together: of lines as they are mostly written by a
    `pattern` of all that stands before the closing brace or the checksum, which takes none that the shape would not; of
    others by their `shape`. It takes two fifths of the time.

    The pattern's groups are noted, and `noted` says the same of a row.
    """

    def __init__(self, pattern: str, noted: Callable[[Row], tuple[str, ...]], shape: Shape[Row]) -> None:
        usual = rf'({pattern})(?:,"crc":"([0-9a-f]{{8}})"|)\}}\n'
        compiled = re.compile(rf"{usual}|[^\n]*\n|[^\n]+")
        self._split, self._blank = compiled.findall, ("",) * compiled.groups
        self._noted, self._shape = noted, shape

    def __call__(self, block: bytes) -> tuple[list[tuple[str, ...]], list[int]]:
        """A column for each thing that is noted, with a value a line; and the numbers, in the block, of the lines that
        cannot be read and have none.
        """
        try:
            found = self._split(block.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            found = [self._blank for _ in io.BytesIO(block)]
        heads, *columns, seals = zip(*found, strict=True)
        odd = _odd(heads, seals)
        if not odd:
            return columns, []
        lines, rows = io.BytesIO(block).readlines(), [line[1:-1] for line in found]
        told = {number: self._shape(lines[number]) for number in odd}
        rows = [self._noted(row) if (row := told.get(number)) else one for number, one in enumerate(rows)]
        bad = {number for number, row in told.items() if row is None}
        read = [row for number, row in enumerate(rows) if number not in bad]
        return list(zip(*read, strict=True)) or [()] * len(columns), sorted(bad)


def _odd(heads: Sequence[str], seals: Sequence[str]) -> list[int]:
    """The numbers of the lines that are not usual, or whose checksum is another one."""
    sums = tuple(map(zlib.crc32, map(_ENCODED, heads)))
    if "" not in heads and "".join(seals) in ("", "%08x" * len(sums) % sums):
        return []
    lines = zip(heads, seals, sums, strict=True)
    return [number for number, (head, seal, crc) in enumerate(lines) if not head or (seal and int(seal, 16) != crc)]


def _has_surrogates(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False
