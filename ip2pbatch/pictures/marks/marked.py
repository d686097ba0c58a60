"""Which marks a file carries that say to people and machines that AI edited it, and whether they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ip2pbatch import errors
from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import NothingMatchedError, UsageError
from ip2pbatch.pictures import xmp
from ip2pbatch.pictures.containers import read_blocks
from ip2pbatch.pictures.marks import credentials
from ip2pbatch.pictures.marks.credentials import MADE_BY_AI, Credentials
from ip2pbatch.plan.folder_walk import RUN_FOLDER, SUFFIXES
from ip2pbatch.plan.formats import UNKNOWN, kind_of

# IPTC Photo Metadata 2025.1: https://iptc.org/std/photometadata/specification.
_FIELDS = {
    "source_type": "DigitalSourceType", "system": "AISystemUsed", "version": "AISystemVersionUsed",
    "prompt": "AIPromptInformation", "writer": "AIPromptWriterName",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Iptc:
    """What a file's metadata says in IPTC's fields; "other": a source type that tells of no model."""

    state: Literal["present", "other", "missing"] = "missing"
    source_type: str = ""
    system: str = ""
    version: str = ""
    prompt: str = ""
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one file, by its path as it is called. `error` says why it cannot be looked at."""

    file: str
    iptc: Iptc = field(default_factory=Iptc)
    c2pa: Credentials = field(default_factory=Credentials)
    watermark: Literal["not checked"] = "not checked"
    error: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Which are not there or do not hold: "iptc", "c2pa"; one that was not looked for is not missing."""
        lacking = {
            "iptc": self.iptc.state != "present",
            "c2pa": self.c2pa.state != "not checked" and not (self.c2pa.holds and self.c2pa.says_ai),
        }
        return tuple(name for name, lacks in lacking.items() if lacks)


@dataclass(frozen=True, slots=True)
class Marked:
    """What `marks` found, a file each."""

    files: tuple[Marks, ...]

    @property
    def lacking(self) -> dict[str, int]:
        """How many files lack a mark, by its name."""
        return {name: sum(name in one.missing for one in self.files) for name in ("iptc", "c2pa")}

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        return errors.DIFFERS if any(one.missing for one in self.files) else errors.DONE

    def as_json(self) -> dict[str, Any]:
        """All of it for `marks --json`."""
        rows = [{**asdict(one), "missing": one.missing} for one in self.files]
        return {"files": rows, "lacking": self.lacking, "exit_code": self.exit_code}


def files_in(what: Path) -> list[Path]:
    """The one file, or the pictures in a folder, but for hidden ones and the sheets of a run.

    Raises UsageError where there is nothing of that name, NothingMatchedError where there is no picture.
    """
    if not what.is_dir():
        if not what.is_file():
            raise UsageError(f"{what}: there is no such file or folder", hint="name a picture, or a folder of them")
        return [what]
    found = sorted(_walk(what))
    if not found:
        raise NothingMatchedError(f"{what} holds no picture", hint="name a picture, or a folder of them")
    return found


def _walk(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root, onerror=_closed):
        drawn = "sheets" if any(name.startswith(RUN_FOLDER) for name in below) else ""
        below[:] = [name for name in below if not name.startswith(".") and name != drawn]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _closed(error: OSError) -> None:
    """A folder that cannot be read is no folder without pictures."""
    raise error


def trusted_in(path: Path | None) -> str:
    """Certificates of authorities, as PEM. Raises UsageError where the file holds none."""
    if path is None:
        return ""
    try:
        text = path.read_text("ascii")
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "it is no PEM file"
        raise UsageError(f"--trust: {path}: {why}", hint="a PEM file with the certificates of authorities") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UsageError(f"--trust: {path} holds no certificate", hint="a PEM file with certificates of authorities")
    return text


def look(path: Path, called: str, trusted: str = "") -> Marks:
    """The marks of one file, which is `called` so."""
    try:
        with open_file(path) as file:
            kind = kind_of(file, path.suffix)
    except OSError as error:
        return Marks(called, error=error.strerror or str(error))
    if kind is None:
        return Marks(called, error=UNKNOWN)
    media = path.suffix.lower().lstrip(".") if kind.name == "raw" else kind.name
    return Marks(called, _iptc(path), credentials.read(path, media, trusted))


def _iptc(path: Path) -> Iptc:
    blocks = read_blocks(path)
    try:
        packet = xmp.Packet(blocks.xmp, blocks.xmp_extended)
        said = {name: packet.get(xmp.IPTC_EXT, field) for name, field in _FIELDS.items()}
    except (xmp.XmpError, RecursionError):
        return Iptc()
    kind = said.pop("source_type").rpartition("/")[2]
    state: Literal["present", "other", "missing"] = "present" if kind in MADE_BY_AI else "other" if kind else "missing"
    return Iptc(state, kind, **said)


def called_in(what: Path, found: Sequence[Path]) -> list[str]:
    """What the files are called, below the folder that was named."""
    return [path.relative_to(what).as_posix() if what.is_dir() else str(path) for path in found]
