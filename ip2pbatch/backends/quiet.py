"""What diffusers and transformers say goes to the log, not to a terminal, for as long as we call them and no longer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

log = logging.getLogger("ip2pbatch.libraries")


@contextmanager
def quiet() -> Iterator[None]:
    """Send the libraries' advice and warnings to our log and hold back their progress bars, then give all back."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [diffusers_logging, transformers_logging]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("default")
            warnings.showwarning = _log_warning
            for library in libraries:
                stack.enter_context(_logged(library.get_logger().name.partition(".")[0]))
                library.disable_progress_bar()
            yield
    finally:
        for library, bar in zip(libraries, bars, strict=True):
            if bar:
                library.enable_progress_bar()


@contextmanager
def _logged(name: str) -> Iterator[None]:
    """A library's own logger, which writes to stderr, writes to our log."""
    logger, ours = logging.getLogger(name), _ToOurLog()
    handlers, level = logger.handlers, logger.level
    logger.handlers = [ours]
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)


class _ToOurLog(logging.Handler):
    """Passes on as information: without a log that is open, Python would print a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        log.info("%s: %s", record.name, record.getMessage())


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    log.info("%s:%d: %s: %s", filename, lineno, category.__name__, message)
