"""The time that runs, logs and headings write down: the clock's, or SOURCE_DATE_EPOCH to make the same bytes again."""

from __future__ import annotations

import datetime
import os

from ip2pbatch.errors import UsageError


def now() -> datetime.datetime:
    """The time in UTC. Raises UsageError."""
    return pinned() or datetime.datetime.now(datetime.UTC)


def pinned() -> datetime.datetime | None:
    """SOURCE_DATE_EPOCH in UTC, None where it is not set. Raises UsageError for what is no time."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        return datetime.datetime.fromtimestamp(int(text), datetime.UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text}, which is no time",
            hint="set it to whole seconds since 1970, such as `git log -1 --format=%ct` prints, or unset it",
        ) from None
