"""What lies in a folder and is not edited: photos that are broken, and by kind all that is passed over, with a reason.

Passing over is no failure: a folder may hold anything. But it is counted, so that 300 HEIC files are never "done".
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ip2pbatch.plan.formats import UNKNOWN

_LITTER = (
    ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "._*", ".directory", ".apdisk", ".localized",
    ".trash*", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100", ".volumeicon.icns",
)  # fmt: skip
_IS_LITTER = re.compile("|".join(map(fnmatch.translate, _LITTER)))
_SHOWN = 3  # suffixes that are named of files that are no pictures


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that should be a photo and cannot be planned: a failed row with its reason."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Files of one kind that were passed over: `kind` as a noun in the plural where it counts several.

    `hint` says what to do where somebody wants them edited, "" where that is plain; `example` names one of them.
    """

    kind: str
    files: int
    reason: str
    hint: str = ""
    example: str = ""

    def __str__(self) -> str:
        such = f" ({self.example})" if self.example else ""
        return f"{self.files:,} {self.kind}{such}: {self.reason}" + (f"; {self.hint}" if self.hint else "")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Passed:
        """The same from `as_row`, whatever a later version added to it."""
        return cls(row["kind"], row["files"], row["reason"], row.get("hint", ""), row.get("example", ""))

    def as_row(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unread:
    """A picture format that is not read: what it is called, its suffixes, how its files begin, what to do."""

    title: str
    suffixes: tuple[str, ...]
    head: bytes
    hint: str


_EXPORT = "export as JPEG, PNG or TIFF"
_UNREAD = (
    Unread("JPEG 2000", (".jp2", ".j2k", ".jpx", ".jpf"), rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _EXPORT),
    Unread("Photoshop", (".psd", ".psb"), rb"8BPS", _EXPORT),
    Unread("graphics", (".ico", ".icns", ".svg", ".eps", ".ai", ".xcf", ".kra", ".exr", ".hdr", ".tga", ".ppm",
           ".pgm", ".pbm", ".pnm", ".dcx", ".pcx", ".wmf", ".emf", ".qoi", ".dds", ".ora", ".pdf"), rb"%PDF-", _EXPORT),
    Unread(
        "video", (".mp4", ".mov", ".avi", ".mkv", ".mts", ".m2ts", ".webm", ".m4v", ".3gp", ".mpg", ".wmv"),
        rb".{4}ftyp(?:isom|mp4|qt  )", "take a frame out of it first",
    ),
)  # fmt: skip
_BY_SUFFIX = {suffix: one for one in _UNREAD for suffix in one.suffixes}

# What a file is that is no picture, or is one and not to be had: (one, several, why, what to do).
_OTHERS = {
    "unreachable": ("file", "files", "cannot be looked at", "see who may read them"),
    "excluded": ("photo", "photos", "left out by `include` and `exclude`", ""),
    "twin": ("file", "files", "of a shot that is edited from another file", "`pairs: raw` or `both` takes them"),
    "hidden": ("hidden photo", "hidden photos", "a name that begins with a dot", "rename to have it edited"),
    "another run": ("folder", "folders", "the output of another run", "name one of them to edit its pictures"),
    "lost link": ("broken link", "broken links", "nothing is there", ""),
    "vanished": ("file", "files", "gone before it could be read", "run again once the folder is at rest"),
    "sidecar": ("sidecar", "sidecars", "read for what the photo beside it does not say", ""),
    "special": ("pipe or device", "pipes or devices", "no file", ""),
}  # fmt: skip


def is_litter(name: str) -> bool:
    """Whether a file is what systems leave in folders of photos, which nobody wants to hear of."""
    return _IS_LITTER.match(name.lower()) is not None


def unread_by_suffix(suffix: str) -> Unread | None:
    """The format that a suffix such as ".heic" promises, of those that are not read."""
    return _BY_SUFFIX.get(suffix.lower())


def unread_by_head(head: bytes) -> Unread | None:
    """The format that a file's first bytes announce, of those that are not read."""
    return next((one for one in _UNREAD if re.match(one.head, head, re.DOTALL)), None)


def why_not(suffix: str) -> str:
    """Why a file that was named is no photo, after its name: "is a HEIC file, which is not read: …"."""
    if found := unread_by_suffix(suffix):
        return f"is of a format that is not read here ({found.title}); {found.hint}"
    return UNKNOWN


@dataclass(slots=True)
class Tally:
    """Counts what is passed over while folders are read."""

    _names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _counts: Counter[str] = field(default_factory=Counter)
    _suffixes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, name: str) -> None:
        """One thing of a kind of `_OTHERS`."""
        self._counts[kind] += 1
        self._names[kind] = sorted((*self._names[kind], name))[:2]  # whatever order a disk tells them in

    def add_file(self, name: str) -> None:
        """One file that is no photo by its suffix."""
        suffix = PurePosixPath(name).suffix.lower()
        if found := unread_by_suffix(suffix):
            self.add(found.title, name)
        elif suffix == ".xmp":
            self.add("sidecar", name)
        else:
            self._suffixes[suffix or "no suffix"] += 1

    def kinds(self) -> tuple[Passed, ...]:
        """All kinds, pictures that are not read first."""
        unread = [
            Passed(f"{one.title} file{'' if n == 1 else 's'}", n, "not read here", one.hint, self._example(one.title))
            for one in _UNREAD if (n := self._counts[one.title])
        ]  # fmt: skip
        others = [
            Passed(single if n == 1 else several, n, why, hint, self._example(kind))
            for kind, (single, several, why, hint) in _OTHERS.items() if (n := self._counts[kind])
        ]  # fmt: skip
        return (*unread, *others, *self._no_pictures())

    def _no_pictures(self) -> Iterable[Passed]:
        if total := self._suffixes.total():
            often = sorted(self._suffixes, key=lambda suffix: (-self._suffixes[suffix], suffix))
            shown = ", ".join(often[:_SHOWN])
            more = ", …" if len(self._suffixes) > _SHOWN else ""
            yield Passed("other file" if total == 1 else "other files", total, "no pictures", "", shown + more)

    def _example(self, kind: str) -> str:
        names = self._names[kind]
        return names[0] + (" …" if len(names) > 1 else "") if names else ""
