"""The EXIF block, edited in place: what is not changed keeps its bytes and its offset.

Maker notes hold offsets counted from the start of the block. Writing EXIF anew moves them and breaks them, so values
stay where they are; only the two directories that change are written again, behind the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from mmap import mmap
from typing import NamedTuple

# Tags of the main directory and of the Exif directory that this project reads or writes.
ORIENTATION = 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
SOFTWARE = 0x0131
EXIF_IFD = 0x8769
GPS_IFD = 0x8825
DATE_TIME_ORIGINAL = 0x9003
DATE_TIME_DIGITIZED = 0x9004
MAKER_NOTE = 0x927C
USER_COMMENT = 0x9286
COLOR_SPACE = 0xA001
PIXEL_X = 0xA002
PIXEL_Y = 0xA003
_INTEROP_IFD = 0xA005
_EXIF_VERSION = 0x9000

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_OVERLAP = 1 << 16  # bytes that values may name beyond twice the block
_EMPTY = b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"


class ExifError(Exception):
    """A block whose directories cannot be followed."""


class Value(NamedTuple):
    """One tag's value: its TIFF type, the number of items, and their bytes in the block's byte order."""

    kind: int
    items: int
    data: bytes


class _Entry(NamedTuple):
    tag: int
    value: Value
    offset: int  # where the data lies when it does not fit in the entry, else 0
    field: bytes  # the entry's own last four bytes


class Block:
    """An EXIF block, "II*" or "MM*" onwards. A whole TIFF file is one, too: its strips are in nobody's way."""

    def __init__(self, data: bytes | mmap = b"") -> None:
        self.data = data or _EMPTY
        if self.data[:4] not in (b"II*\0", b"MM\0*"):
            raise ExifError("no TIFF header")
        self.order = "<" if self.data[:2] == b"II" else ">"
        self._root, self._thumbnail = self._directory(self._long(4))
        pointer = self.get(EXIF_IFD)
        self._exif = self._directory(self._number(pointer))[0] if pointer else {}

    def get(self, tag: int) -> Value | None:
        """A tag of the main directory."""
        entry = self._root.get(tag)
        return entry.value if entry else None

    @property
    def root(self) -> dict[int, Value]:
        """All tags of the main directory."""
        return dict(self._values(self._root))

    def get_exif(self, tag: int) -> Value | None:
        """A tag of the Exif directory."""
        entry = self._exif.get(tag)
        return entry.value if entry else None

    @property
    def interoperability(self) -> str:
        """The index of the interoperability directory: "R98" for sRGB, "R03" for Adobe RGB, "" where it is silent."""
        pointer = self.get_exif(_INTEROP_IFD)
        try:
            entry = self._directory(self._number(pointer))[0].get(1) if pointer else None
        except ExifError:
            return ""
        return self.text(entry.value) if entry else ""

    def text(self, value: Value | None) -> str:
        """An ASCII value without its padding; "" for none."""
        return value.data.split(b"\0")[0].decode("utf-8", "replace").strip() if value else ""

    def short(self, number: int) -> Value:
        return Value(3, 1, struct.pack(self.order + "H", number))

    def rational(self, number: float) -> Value:
        top, bottom = Fraction(number).limit_denominator(10_000).as_integer_ratio()
        return Value(5, 1, struct.pack(self.order + "II", top, bottom))

    def long(self, *numbers: int) -> Value:
        return Value(4, len(numbers), struct.pack(f"{self.order}{len(numbers)}I", *numbers))

    def rewritten(
        self, root: Mapping[int, Value | None], exif: Mapping[int, Value | None], *, strip_gps: bool = False
    ) -> bytes:
        """The block with these tags set (or, where None, removed), and without its thumbnail of the old picture.

        What is removed is overwritten with zeros, so that it cannot be dug up.
        """
        data = self._cleared(root, exif, strip_gps)
        self._wipe_directory(data, self._long(4), ())
        if pointer := self.get(EXIF_IFD):
            self._wipe_directory(data, self._number(pointer), ())
        changes = {**root, **({GPS_IFD: None} if strip_gps else {})}
        if self._exif or exif:
            at = self._append(data, self._exif, {_EXIF_VERSION: Value(7, 4, b"0232"), **self._versions(), **exif})
            changes[EXIF_IFD] = self.long(at)
        at = self._append(data, self._root, changes)
        struct.pack_into(self.order + "I", data, 4, at)
        return bytes(data)

    def in_place(
        self, root: Mapping[int, Value | None], exif: Mapping[int, Value | None], *, strip_gps: bool = False
    ) -> bytes:
        """The block with these tags removed or changed where they are, and not a byte longer.

        A tag that the block has not, or a value of more than four bytes, is left out.
        """
        root = _small({**root, **({GPS_IFD: None} if strip_gps else {})}, self._root)
        exif = _small(exif, self._exif)
        data = self._cleared(root, exif, strip_gps)
        pointer = self.get(EXIF_IFD)
        for at, entries, changes in (
            (self._long(4), self._root, root),
            (self._number(pointer) if pointer else 0, self._exif, exif),
        ):
            if at:
                table = self._table(self._fields(data, entries, changes))
                (count,) = struct.unpack_from(self.order + "H", self.data, at)
                data[at : at + 6 + 12 * count] = table.ljust(6 + 12 * count, b"\0")
        return bytes(data)

    def _cleared(
        self, root: Mapping[int, Value | None], exif: Mapping[int, Value | None], strip_gps: bool
    ) -> bytearray:
        """The block with zeros over the thumbnail, over the position where asked, and over values that are replaced."""
        data = bytearray(self.data)
        self._wipe_thumbnail(data)
        if strip_gps and (pointer := self.get(GPS_IFD)):
            self._wipe_directory(data, self._number(pointer), None)
        for entries, changes in ((self._root, root), (self._exif, exif)):
            for tag in changes:
                if entry := entries.get(tag):
                    _zero(data, entry.offset, len(entry.value.data) if entry.offset else 0)
        return data

    def compacted(self, without: Collection[int], without_exif: Collection[int] = ()) -> bytes:
        """The block alone, out of a TIFF file: every directory with its values, but for these tags of the main one and
        of Exif's.
        """
        data = bytearray(self.data[:8])
        exif, root = dict(self._values(self._exif)), dict(self._values(self._root))
        exif = {tag: value for tag, value in exif.items() if tag not in without_exif}
        for directory, tag in ((exif, _INTEROP_IFD), (root, GPS_IFD)):
            if pointer := directory.pop(tag, None):
                inner = dict(self._values(self._directory(self._number(pointer))[0]))
                directory[tag] = self.long(self._append(data, {}, inner))
        if exif:
            root[EXIF_IFD] = self.long(self._append(data, {}, exif))
        root = {tag: value for tag, value in root.items() if tag not in without}
        struct.pack_into(self.order + "I", data, 4, self._append(data, {}, root))
        return bytes(data) if root else b""

    @staticmethod
    def _values(entries: Mapping[int, _Entry]) -> Iterator[tuple[int, Value]]:
        return ((tag, entry.value) for tag, entry in entries.items())

    def _versions(self) -> dict[int, Value | None]:
        value = self.get_exif(_EXIF_VERSION)
        return {_EXIF_VERSION: value} if value else {}

    def _append(self, data: bytearray, entries: Mapping[int, _Entry], changes: Mapping[int, Value | None]) -> int:
        """Writes a directory behind `data`, unchanged entries as they were; returns where it starts."""
        fields = self._fields(data, entries, changes)
        data += bytes(len(data) % 2)
        start = len(data)
        data += self._table(fields)
        return start

    def _fields(
        self, data: bytearray, entries: Mapping[int, _Entry], changes: Mapping[int, Value | None]
    ) -> dict[int, tuple[int, int, bytes]]:
        """{tag: (type, items, last four bytes)} of a changed directory; values that are longer are added to `data`."""
        fields: dict[int, tuple[int, int, bytes]] = {
            tag: (entry.value.kind, entry.value.items, entry.field)
            for tag, entry in entries.items()
            if tag not in changes
        }
        for tag, value in changes.items():
            if value is None:
                continue
            field = value.data.ljust(4, b"\0")
            if len(field) > 4:
                data += bytes(len(data) % 2)
                field = struct.pack(self.order + "I", len(data))
                data += value.data
            fields[tag] = (value.kind, value.items, field)
        return fields

    def _table(self, fields: Mapping[int, tuple[int, int, bytes]]) -> bytes:
        """A directory that no further one follows: the thumbnail is gone."""
        entries = (
            struct.pack(self.order + "HHI", tag, kind, count) + field
            for tag, (kind, count, field) in sorted(fields.items())
        )
        return struct.pack(self.order + "H", len(fields)) + b"".join(entries) + bytes(4)

    def _directory(self, offset: int) -> tuple[dict[int, _Entry], int]:
        """The entries at an offset by tag, and the offset of the next directory."""
        try:
            (count,) = struct.unpack_from(self.order + "H", self.data, offset)
            entries, left = {}, 2 * len(self.data) + _OVERLAP
            for index in range(count):
                tag, kind, items = struct.unpack_from(self.order + "HHI", self.data, offset + 2 + 12 * index)
                field = self.data[offset + 10 + 12 * index : offset + 14 + 12 * index]
                length = _SIZES.get(kind, 0) * items
                at = struct.unpack(self.order + "I", field)[0] if length > 4 else 0
                value = self.data[at : at + length] if at else field[:length]
                left -= len(value)
                if left < 0:  # a bomb: a small block with values of any sum, each of them copied
                    raise ExifError("its values lie upon each other")
                if kind in _SIZES and len(value) == length:  # anything else cannot be carried, nor read by anyone
                    entries[tag] = _Entry(tag, Value(kind, items, value), at, field)
            tail = self.data[offset + 2 + 12 * count : offset + 6 + 12 * count]
            following = struct.unpack(self.order + "I", tail)[0] if len(tail) == 4 else 0
        except struct.error as error:
            raise ExifError("a directory runs over the end") from error
        return entries, following

    def _wipe_directory(self, data: bytearray, offset: int, tags: tuple[int, ...] | None) -> None:
        """Zeros over a directory's table, and over the data of `tags` (None: of all)."""
        entries, _ = self._directory(offset)
        for tag, entry in entries.items():
            if entry.offset and (tags is None or tag in tags):
                _zero(data, entry.offset, len(entry.value.data))
        (count,) = struct.unpack_from(self.order + "H", self.data, offset)
        _zero(data, offset, 6 + 12 * count)

    def _wipe_thumbnail(self, data: bytearray) -> None:
        if not self._thumbnail:
            return
        try:
            entries, _ = self._directory(self._thumbnail)
        except ExifError:
            return
        for start_tag, length_tag in ((0x0201, 0x0202), (0x0111, 0x0117)):
            if start_tag in entries and length_tag in entries:
                start = self._number(entries[start_tag].value)
                end = min(start + self._number(entries[length_tag].value), len(data))
                if 8 < start < end == len(data):
                    del data[start:]  # the usual place, and the only way to make the block smaller
                elif start > 8:
                    _zero(data, start, end - start)
        self._wipe_directory(data, self._thumbnail, None)

    def _long(self, offset: int) -> int:
        return int(struct.unpack_from(self.order + "I", self.data, offset)[0]) if len(self.data) >= offset + 4 else 0

    def _number(self, value: Value) -> int:
        """The first item of a SHORT or LONG."""
        code = {3: "H", 4: "I", 13: "I"}.get(value.kind)
        if code is None or not value.items:
            raise ExifError("a pointer that is no number")
        return int(struct.unpack_from(self.order + code, value.data)[0])

    def number(self, value: Value | None, default: int = 0) -> int:
        """The first item of a SHORT or LONG; `default` for none or for another type."""
        try:
            return self._number(value) if value else default
        except ExifError:
            return default


def _small(changes: Mapping[int, Value | None], entries: Mapping[int, _Entry]) -> dict[int, Value | None]:
    """The changes that need no room."""
    return {tag: value for tag, value in changes.items() if tag in entries and (not value or len(value.data) <= 4)}


def _zero(data: bytearray, start: int, length: int) -> None:
    end = min(start + length, len(data))
    if start < end:
        data[start:end] = bytes(end - start)
