"""What a line of a journal must look like: the fields of a class, their types and bounds, checked as it is read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import Field, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ip2pbatch.disk.journal import SEALED, parse_object, unseal

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""As `__pydantic_config__` of a class: no field but its own, no number from a text, no infinity."""


class Shaped(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Row = TypeVar("Row", bound=Shaped)
Told = TypeVar("Told")


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


class Usual(Generic[Told]):
    """What is noted of a line: of one as it is mostly written by a `pattern` of its bytes up to the closing brace or
    the checksum, which takes none that its shape would not; of others `by_shape`. It takes a third of the time.

    `noted` makes it of the pattern's match. Where that raises ValueError, the shape decides.
    """

    def __init__(
        self, pattern: bytes, noted: Callable[[re.Match[bytes]], Told], by_shape: Callable[[bytes], Told | None]
    ) -> None:  # fmt: skip
        self._match = re.compile(pattern + rb'(?:,"crc":"(?P<crc>[0-9a-f]{8})")?\}\n').fullmatch
        self._noted, self._by_shape = noted, by_shape

    def __call__(self, line: bytes) -> Told | None:
        match = self._match(line)
        if match is None or ((crc := match["crc"]) and int(crc, 16) != zlib.crc32(line[: -SEALED - 1])):
            return self._by_shape(line)
        try:
            return self._noted(match)
        except ValueError:
            return self._by_shape(line)


def _has_surrogates(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False
