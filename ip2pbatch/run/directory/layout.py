"""Where everything in a run directory lies. Paths only: no file is opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.disk.buckets.locations import is_object, shown
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Strip
from ip2pbatch.plan.shard import Shard, suffix

RUN_FOLDER = ".ip2pbatch"


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

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def published(self) -> Path:
        return self.folder / "published.jsonl"

    @property
    def outgoing(self) -> Path:
        """Where files wait that are put into a bucket."""
        return self.folder / "outgoing"

    def is_run(self) -> bool:
        """Whether a run was ever begun here: by its header, or where that is gone, by its journals."""
        return self.header.is_file() or any(self.folder.glob("sessions*.jsonl"))

    def is_empty(self) -> bool:
        """Whether nothing was ever made here."""
        return not any(self.edits.glob("??/*")) and not any(p.stat().st_size for p in self.folder.glob("results*"))

    def folders(self) -> Iterator[Path]:
        """Every folder in which pictures or plans are written, as far as they exist."""
        yield from (self.folder, self.folder / "plans", self.outgoing)
        for parent in (self.edits, self.sources, self.masks):
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

    def mask(self, name: str) -> Path:
        """What a detector found in a photo, white, by `Sought.mask_name`."""
        return self.masks / name[:2] / f"{name}.png"


def refuse_address(root: Path) -> None:
    """Raises UsageError where a bucket's address stands for the folder of a run."""
    if is_object(root):
        raise UsageError(
            f"{shown(root)} is in a bucket: what a run needs to go on is kept in a folder of this machine",
            hint="name that folder: `run` and `edit` begin it with --state DIR, and every command takes DIR then",
        )


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
