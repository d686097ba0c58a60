"""Which part of a plan, or of a list's rows, one of several processes makes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import ManyStrips, Photo, Plan, held


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
        if isinstance(plan.strips, ManyStrips):
            own = held(photo for photo in plan.photos if self.owns(photo))
            of_own, edits = plan.strips.of_photos(own)
            return replace(plan, photos=own, strips=of_own, edits=edits)
        photos = tuple(photo for photo in plan.photos if self.owns(photo))
        strips = tuple(strip for strip in plan.strips if self.owns(strip.photo))
        wanted = {edit.key for strip in strips for edit in strip.made}
        return replace(plan, photos=photos, strips=strips, edits=tuple(e for e in plan.edits if e.key in wanted))


def suffix(shard: Shard | None) -> str:
    """What a shard adds to the name of a file that it alone writes: `-2of8`, or nothing."""
    return f"-{shard.index}of{shard.count}" if shard else ""
