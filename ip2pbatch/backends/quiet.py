"""Holding back what diffusers and transformers say to a terminal, for as long as we call them and no longer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars, advice and warnings for the duration, then give them back."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [diffusers_logging, transformers_logging]
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for library in libraries:
                library.set_verbosity(library.CRITICAL)
                library.disable_progress_bar()
            yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()
