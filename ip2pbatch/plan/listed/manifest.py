"""A manifest: a CSV with a photo a row. Columns name, and optionally path, digest and size."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.disk.atomic import disk_error, replacing
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.buckets.locations import shown as location_shown
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.written.addresses import is_address, is_location, unfit
from ip2pbatch.plan.written.spreadsheets import Table, shown

COLUMNS = ("name", "path", "digest", "size")
_OTHER_NAMES = {
    "photo": "name", "file": "name", "filename": "name", "file name": "name", "image": "name", "sourcefile": "name",
    "hash": "digest", "sha256": "digest", "md5": "digest", "checksum": "digest", "dimensions": "size",
    "resolution": "size", "width": "size, as 4000x3000", "height": "size, as 4000x3000", "folder": "path",
}  # fmt: skip
_DIGEST = re.compile(r"[0-9a-fA-F]{32}")
_SIZE = re.compile(r"([1-9][0-9]{0,6})\s*[x×X*]\s*([1-9][0-9]{0,6})")
_ODD = re.compile(r"//|(?:^|/)\.{1,2}(?:/|$)|^/|/$")


@dataclass(frozen=True, slots=True)
class Row:
    """One photo: `path` is where its file is, where that is not `name` below the folder; "" otherwise.

    `digest` and `size` (width, height as the photo is shown) are "" and None where the manifest leaves them out.
    """

    name: str
    path: str
    digest: str
    size: tuple[int, int] | None
    line: int


def read_manifest(path: Path, folder: Path) -> Iterator[Row]:
    """The rows of a manifest of photos in `folder`, in order, one in memory at a time.

    Raises RecipeError with the line, but for a name that is there twice, which whoever has all of them knows.
    """
    table = Table(path, COLUMNS, COLUMNS[:1], _OTHER_NAMES)
    root = f"{location_shown(folder) if is_object(folder) else folder.as_posix().rstrip('/')}/"
    for line, cells in table.rows():
        try:
            name = written = _name(cells.get("name", ""), root)
            if not name.isascii():
                name = unicodedata.normalize("NFC", name)
            place = _path(cells.get("path", "")) or ("" if name == written else written)
            yield Row(name, place, _digest(cells.get("digest", "")), _size(cells.get("size", "")), line)
        except _Wrong as wrong:
            raise RecipeError(wrong.why, file=path, line=line, column=1, hint=wrong.hint) from None


class _Wrong(Exception):  # noqa: N818 (the row's place is added, then it is an error)
    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why, self.hint = why, hint


def _name(cell: str, root: str) -> str:
    """A name with forward slashes below the folder. One that begins with `./` is taken to the letter."""
    name = cell[2:] if cell.startswith("./") else cell.replace("\\", "/")
    if not name:
        raise _Wrong("a row without a name", "name the photo in the column name, or empty the row")
    return _below(name, root) if _ODD.search(name) or "\0" in name or ":/" in name else name


def _below(name: str, root: str) -> str:
    if "\0" in name:
        raise _Wrong("a name cannot hold a NUL character", "remove it")
    if is_address(name) and not name.startswith(root):
        why, hint = unfit(name, shown(name))
        raise _Wrong(why, "put it in a column path, beside the name that it shall have" if is_location(name) else hint)
    parts = [part for part in name.removeprefix(root).split("/") if part not in ("", ".")]
    if ".." in parts or name.removeprefix(root).startswith("/"):
        hint = "say where the file is in a column path, or where all are by `folder:` beside `manifest:` in the recipe"
        raise _Wrong(f"{shown(name)} leads out of {root}", hint)
    if not parts or name.endswith("/"):
        raise _Wrong(f"{shown(name)} is no photo's name", "name the photo, such as day-1/a.jpg")
    return "/".join(parts)


def _path(cell: str) -> str:
    if "\0" in cell:
        raise _Wrong("a path cannot hold a NUL character", "remove it")
    if is_address(cell) and not is_location(cell):
        raise _Wrong(*unfit(cell, shown(cell)))
    return cell


def _digest(cell: str) -> str:
    if cell and not _DIGEST.fullmatch(cell):
        hint = "it is what `plan --write-manifest` wrote; leave it out, and the photo is read"
        raise _Wrong(f"{shown(cell)} is no digest of 32 hexadecimal digits", hint)
    return cell.lower()


def _size(cell: str) -> tuple[int, int] | None:
    if not cell:
        return None
    match = _SIZE.fullmatch(cell)
    if match is None:
        hint = "width and height as the photo is shown, such as 4000x3000; leave it out, and the photo is read"
        raise _Wrong(f"{shown(cell)} is no size", hint)
    return int(match[1]), int(match[2])


def write_manifest(path: Path, photos: Iterable[Photo]) -> int:
    """Write `photos` in their order, with their digests and sizes; how many there are. The file appears whole.

    A path is written where the name below the manifest's folder does not lead to the file. Raises UsageError where the
    place is taken by what is no manifest, and ResourceError.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is no folder", hint="create it, or name a file elsewhere")
    if path.exists() and not _is_replaceable(path):
        raise UsageError(f"{path} is already there and is no manifest", hint="name another file, or remove it first")
    folder, count = f"{path.absolute().parent}{os.sep}", 0
    try:
        with replacing(path) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            rows = csv.writer(text)  # with \\r\\n: a name may hold either, and is put in quotes then
            rows.writerow(COLUMNS)
            for photo in photos:
                rows.writerow(_cells(photo, folder))
                count += 1
            text.detach()
    except OSError as error:
        raise disk_error(error, path) from error
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r} is no UTF-8, and a manifest is", hint="rename the folder") from None
    return count


def _cells(photo: Photo, folder: str) -> tuple[str, str, str, str]:
    """One row. `./` keeps spaces and backslashes, which would else be taken for a spreadsheet's doing."""
    place = location_shown(photo.path).removeprefix(folder)
    name = f"./{photo.name}" if "\\" in photo.name or photo.name != photo.name.strip() else photo.name
    path = f"./{place}" if place != place.lstrip() else place
    return name, "" if place == photo.name else path, photo.digest, "{}x{}".format(*photo.size)


def _is_replaceable(path: Path) -> bool:
    """Whether nothing is lost with it: its first line is a manifest's, or there is none."""
    try:
        next(read_manifest(path, path.absolute().parent), None)
    except RecipeError as error:
        return error.line > 1 or (path.is_file() and not path.stat().st_size)
    return True
