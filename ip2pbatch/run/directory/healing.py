"""Kept pictures read whole before a run says that they are there: what is damaged is set aside, to be made again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ip2pbatch.disk.journal import last_rows
from ip2pbatch.disk.settling import MOST
from ip2pbatch.errors import DamagedError
from ip2pbatch.run.directory.kept import Kept, digest_of
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import RECORD


def last_group(run: Run) -> list[str]:
    """The done Edits of which a power cut may have taken the pictures, though it left their results: those of the last
    lines, which the disk took in an order of its own (see disk/settling.py).
    """
    records = last_rows(run.layout.results(run.shard), RECORD, MOST)
    return [key for key in dict.fromkeys(record.edit for record in records) if key in run.done]


def heal(run: Run, keys: Sequence[str]) -> dict[str, DamagedError]:
    """Read the pictures of these done Edits; those that are not as they were written are done no longer, and come back.

    What an earlier version kept gets its digest. Raises ResourceError.
    """

    def look(key: str) -> str | DamagedError:
        record = run.records[key]
        try:
            data = Kept(run.layout.picture(key), record.digest).read()
        except DamagedError as error:
            return error
        return "" if record.digest else digest_of(data)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(zip(keys, pool.map(look, keys), strict=True))
    for key, damage in found:
        if isinstance(damage, DamagedError):
            run.set_aside(key, damage)
    run.learn({key: (digest, "") for key, digest in found if isinstance(digest, str) and digest})
    return {key: damage for key, damage in found if isinstance(damage, DamagedError)}
