"""What was found out once and is worth keeping for this user: one SQLite file in the cache folder, a topic a kind.

    sizes = Remembered("sizes")
    if (found := sizes.get(key)) is None:
        found = look(key)
        sizes.keep({key: found})

It only saves time. Where it cannot be read or written everything is found out again, and who deletes it loses nothing.
Any number of processes may share it. A value is whatever JSON holds, and its reader makes sure that it is of its kind.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

_WAIT = 2.0  # seconds for another process to finish writing
_TABLE = "CREATE TABLE IF NOT EXISTS found (topic TEXT, key TEXT, value TEXT, PRIMARY KEY (topic, key)) WITHOUT ROWID"


def cache_folder() -> Path:
    """This user's cache folder, the only one that is written outside an output folder; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("ip2pbatch"))


class Remembered:
    """The values of one topic by key, in this user's cache or in the file `path`."""

    def __init__(self, topic: str, path: Path | None = None) -> None:
        self._topic, self._path = topic, path or cache_folder() / "remembered.sqlite"

    def get(self, key: str) -> Any:
        """The value of one key; None where none is known."""
        return self.recall([key]).get(key)

    def recall(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of `keys` that are known."""
        select = "SELECT value FROM found WHERE topic = ? AND key = ?"
        try:
            with closing(self._connect()) as database:
                rows = ((key, database.execute(select, (self._topic, key)).fetchone()) for key in keys)
                return {key: json.loads(row[0]) for key, row in rows if row}
        except (sqlite3.Error, OSError, ValueError):
            return {}

    def everything(self) -> dict[str, Any]:
        """All that is known of the topic."""
        try:
            with closing(self._connect()) as database:
                rows = database.execute("SELECT key, value FROM found WHERE topic = ?", (self._topic,)).fetchall()
            return {key: json.loads(value) for key, value in rows}
        except (sqlite3.Error, OSError, ValueError):
            return {}

    def keep(self, found: Mapping[str, Any]) -> None:
        """Remember `found`, in the place of what was known of its keys."""
        rows = [(self._topic, key, json.dumps(value)) for key, value in found.items()]
        # Locked, read-only or full: it is found out again next time.
        with suppress(OSError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._write(rows)
            except sqlite3.OperationalError:
                return
            except sqlite3.DatabaseError:  # not a database (any more)
                self._path.unlink()
                self._write(rows)

    def _write(self, rows: list[tuple[str, str, str]]) -> None:
        with closing(self._connect()) as database, database:
            database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_WAIT)
        database.execute(_TABLE)
        return database
