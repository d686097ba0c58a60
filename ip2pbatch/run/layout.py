"""Where everything in a run directory lies, and which part of a plan a shard owns. Paths only: no file is opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Plan, Strip
from ip2pbatch.plan.photos import Photo

RUN_FOLDER = ".ip2pbatch"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count`: every photo belongs to exactly one part, whatever other photos there are."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8` → the second of eight. Raises UsageError."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{text!r} is not a shard", hint="write it as k/n with 1 ≤ k ≤ n, for example --shard 2/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, photo: Photo) -> bool:
        """Whether `photo` is in this part: by a hash of its digest, so that adding photos moves none of the others."""
        place = int.from_bytes(hashlib.sha256(photo.digest.encode()).digest()[:8], "big")
        return place % self.count == self.index - 1

    def owns_row(self, number: int) -> bool:
        """Whether row `number`, from 0, of a numbered list is in this part."""
        return number % self.count == self.index - 1

    def take(self, plan: Plan) -> Plan:
        """The part of `plan` that this shard makes: whole photos, so that chains stay together."""
        photos = tuple(photo for photo in plan.photos if self.owns(photo))
        strips = tuple(strip for strip in plan.strips if self.owns(strip.photo))
        wanted = {edit.key for strip in strips for edit in strip.edits}
        return replace(plan, photos=photos, strips=strips, edits=tuple(e for e in plan.edits if e.key in wanted))


def suffix(shard: Shard | None) -> str:
    """What a shard adds to the name of a file that it alone writes: `-2of8`, or nothing."""
    return f"-{shard.index}of{shard.count}" if shard else ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths inside one run directory, `folder` (OUT/.ip2pbatch, or OUT/.ip2pbatch-2 after `--fresh`)."""

    folder: Path

    @property
    def header(self) -> Path:
        return self.folder / "run.json"

    @property
    def numbers(self) -> Path:
        return self.folder / "numbers.jsonl"

    @property
    def edits(self) -> Path:
        return self.folder / "edits"

    @property
    def sources(self) -> Path:
        return self.folder / "sources"

    def folders(self) -> Iterator[Path]:
        """Every folder in which pictures or plans are written, as far as they exist."""
        yield from (self.folder, self.folder / "plans")
        for parent in (self.edits, self.sources):
            yield from (path for path in parent.glob("??") if path.is_dir())

    def sessions(self, shard: Shard | None) -> Path:
        return self.folder / f"sessions{suffix(shard)}.jsonl"

    def results(self, shard: Shard | None) -> Path:
        return self.folder / f"results{suffix(shard)}.jsonl"

    def deliveries(self, shard: Shard | None) -> Path:
        return self.folder / f"deliveries{suffix(shard)}.jsonl"

    def log(self, shard: Shard | None) -> Path:
        return self.folder / f"log{suffix(shard)}.txt"

    def plan(self, digest: str) -> Path:
        return self.folder / "plans" / f"{digest}.jsonl"

    def picture(self, key: str) -> Path:
        """The lossless picture of an Edit at model size."""
        return self.edits / key[:2] / f"{key}.png"

    def latent(self, key: str) -> Path:
        """The denoised latent of an Edit that a later link of a chain starts from, float32 [c, h, w]."""
        return self.edits / key[:2] / f"{key}.safetensors"

    def source(self, digest: str, size: tuple[int, int]) -> Path:
        """The photo as the model saw it, lossless, at `size` (width, height)."""
        return self.sources / digest[:2] / f"{digest}-{size[0]}x{size[1]}.png"


def run_folders(root: Path) -> list[Path]:
    """The run directories beside each other in an output folder, oldest first; readers use the last one."""
    found: list[tuple[int, Path]] = []
    for path in root.glob(f"{RUN_FOLDER}*") if root.is_dir() else ():
        match = re.fullmatch(re.escape(RUN_FOLDER) + r"(?:-(\d+))?", path.name)
        if match and path.is_dir():
            found.append((int(match[1] or 1), path))
    return [path for _, path in sorted(found)]


def fresh_folder(root: Path) -> Path:
    """The next run directory in an output folder: `.ip2pbatch`, then `.ip2pbatch-2`, `.ip2pbatch-3` …"""
    folders = run_folders(root)
    if not folders:
        return root / RUN_FOLDER
    return root / f"{RUN_FOLDER}-{int(folders[-1].name.removeprefix(RUN_FOLDER).lstrip('-') or 1) + 1}"


def strip_key(strip: Strip) -> str:
    """A strip's own name, 16 hex digits: photo name, the recipe's name for the edit, and the keys of its links.

    Two photos with the same bytes share their Edits but not their files: that is why the name is in it.
    """
    text = "\n".join([strip.photo.name, strip.id, *(edit.key for edit in strip.edits)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
