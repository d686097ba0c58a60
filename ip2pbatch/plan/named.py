"""Functions and classes that a table names and that are imported when they are first needed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def named(where: str) -> Any:
    """What "module:name" is. So a table lists what is heavy or lives in a higher room, and costs nothing to read."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
