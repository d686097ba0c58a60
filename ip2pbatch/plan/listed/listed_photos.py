"""The photos of a manifest: some tens of bytes each in memory, however many there are."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.errors import PhotoError, RecipeError
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.formats import suffixes
from ip2pbatch.plan.globs import below, matcher
from ip2pbatch.plan.listed.manifest import Row, read_manifest
from ip2pbatch.plan.photo_digests import check_size
from ip2pbatch.plan.unedited import Broken, Tally, why_not
from ip2pbatch.plan.written.spreadsheets import shown

if TYPE_CHECKING:
    from ip2pbatch.plan.written.recipe import PhotoFolder

_SUFFIXES = frozenset(suffixes())
_BUCKETS = 256


class ListedPhotos(Sequence[Photo]):
    """Photos whose digest and size are known: each is made when it is asked for, so go through them in order.

    `folder` holds them, `prefix` stands before each name. One takes its name, its path where that is another, 32 bytes.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self._folder, self._prefix = f"{str(folder).rstrip(os.sep)}{os.sep}", prefix
        self._texts, self._ends = bytearray(), array("Q", [0])
        self._digests, self._sizes = bytearray(), array("I")

    def append(self, row: Row, digest: str, size: tuple[int, int]) -> None:
        """Add the photo of a row."""
        self._texts += f"{row.name}\0{row.path}".encode() if row.path else row.name.encode()
        self._ends.append(len(self._texts))
        self._digests += bytes.fromhex(digest)
        self._sizes.extend(size)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> Photo: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Photo, ...]: ...
    def __getitem__(self, at: int | slice) -> Photo | tuple[Photo, ...]:
        if isinstance(at, slice):
            return tuple(self[one] for one in range(*at.indices(len(self))))
        place = range(len(self))[at]
        name, _, path = self._texts[self._ends[place] : self._ends[place + 1]].decode().partition("\0")
        digest = self._digests[16 * place : 16 * place + 16].hex()
        size = self._sizes[2 * place], self._sizes[2 * place + 1]
        return Photo(self._prefix + name, place_of(self._folder, name, path), digest, size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def place_of(folder: str, name: str, path: str) -> Path:
    """Where a photo is: at `path`, else called `name`, below `folder`; or at an address of its own."""
    if path and is_object(path):
        return Path(path)
    return Path(os.path.join(folder, path or name))  # noqa: PTH118 (ten million of them)


@dataclass(slots=True)
class Listing:
    """What a manifest lists: `photos` of which it says digest and size, and `rest` to look at, each with the number of
    photos before it. `unwanted` are names that a filter leaves out.
    """

    folder: PhotoFolder
    prefix: str
    photos: ListedPhotos
    rest: list[tuple[int, Row]] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    unwanted: set[str] = field(default_factory=set)

    def places(self) -> Iterator[tuple[str, Path]]:
        """Name and path of those to look at."""
        for _, row in self.rest:
            yield self.prefix + row.name, place_of(str(self.folder.folder), row.name, row.path)

    def completed(self, looked: Mapping[tuple[str, Path], Photo]) -> Sequence[Photo]:
        """All photos in the manifest's order, with the rest as they were `looked` at, by name and path; what is another
        photo than it says is `broken`.
        """
        if not self.rest:
            return self.photos
        done, found = 0, list[Photo]()
        for (before, row), place in zip(self.rest, self.places(), strict=True):
            found += self.photos[done:before]
            done = before
            photo = looked.get(place)
            if photo is not None and (why := _contradicts(row, photo)):
                self.broken.append(Broken(photo.name, photo.path, why))
            elif photo is not None:
                found.append(photo)
        return (*found, *self.photos[done:])


def listing_of(folder: PhotoFolder, manifest: Path, prefix: str, passed: Tally, output: Path | None) -> Listing:
    """Read a manifest. Raises RecipeError with the line for what is wrong in it, and for a photo that lies in `output`.

    A photo that cannot be one by its name or its size is `broken`, as in a folder.
    """
    listing, names = Listing(folder, prefix, ListedPhotos(folder.folder, prefix)), _Names()
    wanted, written_to = _filter(folder), _within(output, folder.folder)
    for row in read_manifest(manifest, folder.folder):
        names.add(row.name)
        if written_to(row):
            raise RecipeError(
                f"{row.name} lies in the output folder {output}", file=manifest, line=row.line, column=1,
                hint="write to another folder: originals are kept",
            )  # fmt: skip
        if not wanted(row.name):
            listing.unwanted.add(prefix + row.name)
            passed.add("excluded", prefix + row.name)
        else:
            _take(listing, row)
    if names.twice:
        names.refuse(manifest, folder.folder)
    return listing


def _take(listing: Listing, row: Row) -> None:
    suffix = os.path.splitext(row.name)[1].lower()  # noqa: PTH122 (ten million of them)
    try:
        if suffix not in _SUFFIXES:
            raise PhotoError(why_not(suffix))
        if row.size is not None:
            check_size(*row.size)
    except PhotoError as error:
        path = place_of(str(listing.folder.folder), row.name, row.path)
        listing.broken.append(Broken(listing.prefix + row.name, path, str(error)))
        return
    if row.digest and row.size is not None:
        listing.photos.append(row, row.digest, row.size)
    else:
        listing.rest.append((len(listing.photos), row))


def _contradicts(row: Row, photo: Photo) -> str:
    """What the manifest says otherwise of a photo that was looked at, "" where nothing."""
    if row.digest and row.digest != photo.digest:
        return f"is another photo than its manifest says: its digest is {photo.digest}, and not {row.digest}"
    if row.size is not None and row.size != photo.size:
        (width, height), (other, says) = photo.size, row.size
        return f"has {width} × {height} pixels as it is shown, and its manifest says {other} × {says}"
    return ""


def _filter(folder: PhotoFolder) -> Callable[[str], bool]:
    """Whether a name is one that `include` and `exclude` leave; the globs of every photo are not asked of millions."""
    from ip2pbatch.plan.written.recipe import PHOTO_GLOBS

    wanted = None if folder.include == PHOTO_GLOBS else matcher(folder.include)
    unwanted = matcher([*folder.exclude, *below(folder.exclude)]) if folder.exclude else None
    return lambda name: (wanted is None or wanted(name)) and not (unwanted is not None and unwanted(name))


def _within(output: Path | None, folder: Path) -> Callable[[Row], bool]:
    """Whether a row's file lies in the output folder."""
    if output is None:
        return lambda row: False
    top, root = (os.path.realpath(path).rstrip(os.sep) + os.sep for path in (output, folder))

    def lies_there(row: Row) -> bool:
        if is_object(row.path):
            return False
        file = os.path.normpath(os.path.join(root, row.path)) if row.path else root + row.name  # noqa: PTH118 (as above)
        return file.startswith(top)

    return lies_there


class _Names:
    """Names that some file system would take for one another: of each name its hash, eight bytes."""

    def __init__(self) -> None:
        self._hashes = [array("q") for _ in range(_BUCKETS)]

    def add(self, name: str) -> None:
        value = hash(name.casefold())
        self._hashes[value % _BUCKETS].append(value)

    @property
    def twice(self) -> bool:
        return any(len(set(some)) < len(some) for some in self._hashes)

    def refuse(self, manifest: Path, folder: Path) -> None:
        """Read the manifest again for the two. Raises RecipeError, unless the hashes of two names are one by chance."""
        often = {value for some in self._hashes for value, count in Counter(some).items() if count > 1}
        seen: dict[str, Row] = {}
        for row in read_manifest(manifest, folder):
            folded = row.name.casefold()
            if hash(folded) in often and (first := seen.setdefault(folded, row)) is not row:
                same = shown(row.name) if row.name == first.name else f"{shown(first.name)} and {shown(row.name)}"
                raise RecipeError(
                    f"{same}: one name twice, in line {first.line} before", file=manifest, line=row.line, column=1,
                    hint="case and Unicode form do not tell names apart; give one another name, and its file a path",
                )  # fmt: skip
