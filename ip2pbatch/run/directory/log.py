"""The log of a run: what the package says while the run is open, with tracebacks, and what libraries warn of."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from ip2pbatch.run import clock

_PACKAGE = "ip2pbatch"


class RunLog:
    """Adds what the package logs, and the warnings of all others, to the file at `path`, until it is closed."""

    def __init__(self, path: Path) -> None:
        self._handler = _File(path, encoding="utf-8", delay=True)
        self._handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger(_PACKAGE)
        logger.addHandler(self._handler)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        self._others = _Others(self._handler)
        logging.getLogger().addHandler(self._others)

    def close(self) -> None:
        """Safe to call twice. Who still holds something back for the log gives it now."""
        logging.getLogger().removeHandler(self._others)
        logger = logging.getLogger(_PACKAGE)
        for handler in logger.handlers:
            handler.flush()
        if self._handler in logger.handlers:
            logger.removeHandler(self._handler)
            logger.setLevel(self._level)
        self._handler.close()


class _File(logging.FileHandler):
    """A log that cannot be opened or written (a full disk, a folder in its place) ends nothing and hides no error."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # from opening it, which comes with the first line
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        pass


class _Others(logging.Handler):
    """Of what reaches the root, the warnings of everybody but us: ours are in the log already."""

    def __init__(self, file: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] != _PACKAGE:
            self._file.handle(record)


class _Lines(logging.Formatter):
    """Local time, or SOURCE_DATE_EPOCH in UTC where it is set: then nothing in a run hangs on the clock."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (as above)
        pinned = clock.pinned()
        return f"{pinned:%Y-%m-%d %H:%M:%S}" if pinned else super().formatTime(record, datefmt)
