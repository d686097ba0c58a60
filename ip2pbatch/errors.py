"""Every error that a person can mend, and the exit codes of every command.

    Ip2pError                       what went wrong, and a hint that mends it
    ├── RecipeError            2    a recipe, an instructions file, a stage config or training data; carries its place
    ├── UsageError             2    flags that do not fit together, another engine than the run's
    ├── PlanError              2    two results on one name, output inside the photos' folder
    ├── StaleError             4    a lock that is stale or missing, a run with work left where none may be
    ├── TrainingError          3    a training whose loss is not finite or explodes
    ├── NothingMatchedError    5    no photo, no edit
    ├── ModelError             6    a model that is missing, unreachable, or not one we load
    ├── MissingError           6    a device, a library or a provider that is missing
    ├── UnreachableError       6    a bucket that is not there, does not answer, or takes no credentials
    ├── ResourceError          7    disk full, out of memory at the smallest batch
    ├── LockedError           11    another process writes to this run
    ├── WorkerError            *    what the last worker process of a run could not go on from; the code of that
    ├── StoppedError     130, 143   a training that a signal ended between two steps, its checkpoint written
    └── PhotoError             -    one photo that cannot be read: a row with a reason, never the end of a run
        └── DamagedError       -    a file that a run kept and that is not as it was written: it is made again

Nothing here prints. `cli.app` is the one place where these become words on a screen and an exit code.
"""

from __future__ import annotations

from pathlib import Path

# The exit codes of every command, in one table. 1 is for our own bugs; 129, 130 and 143 are the shell's for signals.
DONE = 0
BUG = 1
USAGE = 2
UNFINISHED = 3  # finished, with failed, nan or flagged pictures
DIFFERS = 4  # verify mismatch, stale lock, work left under --exit-code, or an AI mark missing
NOTHING_MATCHED = 5
ENVIRONMENT = 6
RESOURCES = 7
LOCKED = 11
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143

MAY_READ = "check that it is there and may be read"  # the hint where the system refuses a file


class TerminatedError(SystemExit):
    """SIGTERM while there is nothing to finish, as KeyboardInterrupt is ^C; nothing that catches errors stops it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Ip2pError(Exception):
    """Base of all errors a person can mend: `str(error)` is one plain sentence, `hint` says what to do."""

    exit_code = BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Ip2pError):
    """Flags that do not fit together, or a run reopened with another engine."""

    exit_code = USAGE


class RecipeError(Ip2pError):
    """A mistake in a file that a person wrote; `line` and `column` count from 1, 0 where there is none.

    `more` are the other mistakes of the same file, in its order.
    """

    exit_code = USAGE

    def __init__(
        self, message: str, *, file: Path | str, line: int = 0, column: int = 0, key: str = "", hint: str | None = None
    ) -> None:
        place = f"{file}:{line}:{column}: " if line else f"{file}: "
        super().__init__(place + (f"{key}: " if key else "") + message, hint=hint)
        self.file, self.line, self.column, self.key = Path(file), line, column, key
        self.more: tuple[RecipeError, ...] = ()


class PlanError(Ip2pError):
    """A plan that cannot be carried out as asked, found before anything runs."""

    exit_code = USAGE


class StaleError(Ip2pError):
    """A lock that does not fit what is there now, or a run with work left where a finished one is needed."""

    exit_code = DIFFERS


class TrainingError(Ip2pError):
    """A training that went wrong by itself: its loss is not finite or explodes."""

    exit_code = UNFINISHED


class NothingMatchedError(Ip2pError):
    """No photo or no edit is left to run."""

    exit_code = NOTHING_MATCHED


class ModelError(Ip2pError):
    """A model that is missing, not reachable, or in a layout that is not loaded."""

    exit_code = ENVIRONMENT


class MissingError(Ip2pError):
    """A device, a library or a provider that this machine does not have."""

    exit_code = ENVIRONMENT


class UnreachableError(Ip2pError):
    """A bucket that is not there, does not answer, or takes no credentials; what was finished is kept."""

    exit_code = ENVIRONMENT


class ResourceError(Ip2pError):
    """The disk is full or memory ran out; what was finished is kept."""

    exit_code = RESOURCES


class LockedError(Ip2pError):
    """Another process is writing to this run."""

    exit_code = LOCKED


class WorkerError(Ip2pError):
    """What ended a worker process, by the worker's name; `exit_code` is that of the error that it met."""

    def __init__(self, message: str, exit_code: int, *, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class StoppedError(Ip2pError):
    """A signal asked for an end, and what was done is kept; `exit_code` is the shell's for that signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PhotoError(Ip2pError):
    """One photo that cannot be read or is refused: it becomes a failed row, the rest of the run goes on."""

    exit_code = UNFINISHED


class DamagedError(PhotoError):
    """A picture or latent at `path` that a run kept, and that is gone or not as it was written: it is made again."""

    def __init__(self, message: str, *, path: Path, hint: str = "run the recipe again, and it is made again") -> None:
        super().__init__(message, hint=hint)
        self.path = path
