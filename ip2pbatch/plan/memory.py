"""A small memory of photos' digests and sizes, so that a folder is hashed once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from ip2pbatch.plan.photo_digests import DIGEST_VERSION, Look


class Memory:
    """What `look` found before, by path, size and modification time, in one SQLite file that any process may share.

    It only saves time: where it cannot be read or written, photos are looked at again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self, files: Iterable[tuple[str, int, int]]) -> dict[str, Look]:
        """The Looks of those of `files` (path, bytes, mtime in ns) that have not changed since, by path."""
        try:
            with closing(self._connect()) as database:
                select = "SELECT digest, width, height FROM looks WHERE path = ? AND bytes = ? AND mtime_ns = ?"
                rows = ((file[0], database.execute(select, file).fetchone()) for file in files)
                return {path: Look(row[0], (row[1], row[2])) for path, row in rows if row}
        except (sqlite3.Error, OSError):
            return {}

    def keep(self, looks: Mapping[tuple[str, int, int], Look]) -> None:
        """Remember `looks`, keyed as in `recall`."""
        rows = [(*file, found.digest, *found.size) for file, found in looks.items()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as database, database:
                database.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError:
            return  # locked, read-only or full: the next scan looks again
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)  # not a database (any more)
        except OSError:
            return

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=2)
        database.execute(
            "CREATE TABLE IF NOT EXISTS looks (path TEXT PRIMARY KEY, bytes INT, mtime_ns INT, digest TEXT, width INT, "
            "height INT) WITHOUT ROWID"
        )
        return database


def default_memory() -> Memory:
    """The Memory in this user's cache folder; nothing is made before something is kept."""
    import platformdirs

    return Memory(Path(platformdirs.user_cache_dir("ip2pbatch")) / f"photos-{DIGEST_VERSION}.sqlite")
