"""A file that waits on this machine until it is put into a bucket whole."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.disk.atomic import Anchor, Beside, write_beside
from ip2pbatch.disk.buckets.prefix import Prefix, prefix_of
from ip2pbatch.disk.buckets.stores import Version

_NAME = "object"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is to `appear` as the object `name` of a prefix, in the place of one version of it, or to be discarded."""

    prefix: Prefix
    name: str
    replaces: Version | None
    beside: Beside

    @property
    def path(self) -> Path:
        """Its address."""
        return Path(f"{self.prefix.place}/{self.name}")

    @property
    def waiting(self) -> Path:
        """Where it is until then."""
        return self.beside.waiting

    def appear(self) -> Version:
        """Put it; what it is now. Raises StoreError where something else is there by now, UnreachableError."""
        try:
            return self.prefix.put(self.name, self.waiting, self.replaces)
        finally:
            self.discard()

    def discard(self) -> None:
        """Let go of what waits."""
        with suppress(OSError):
            self.waiting.unlink()


def outgoing(root: Path, name: str, data: bytes, folder: Path, anchor: Anchor | None = None) -> Outgoing:
    """Have a file wait in `folder`, below what `anchor` holds, for the object `name` below the address `root`.

    What is there now is what it takes the place of: whoever asks for it has looked whose that is. Raises StoreError
    where that is something else meanwhile, ResourceError.
    """
    prefix = prefix_of(root)
    replaces = prefix.replaced(name)
    return Outgoing(prefix, name, replaces, write_beside(folder / _NAME, data, root=anchor))
