"""The one engine of a studio: loaded once, lent to one session after another, and heard while it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ip2pbatch.jobs import engines
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine, Hook, Pending, Preview, Source

if TYPE_CHECKING:
    from ip2pbatch.run.machine import Machine


class Listener(Protocol):
    """What hears which Edits an engine is at, in the engine's thread; keep it short."""

    def begun(self, edits: Sequence[Edit]) -> None:
        """These are being made now."""
        ...

    def stepped(self, edits: Sequence[Edit], done: int, of: int, preview: Preview) -> None:
        """They are at step `done` of `of`; `preview`, when called, makes a picture of each so far."""
        ...


@dataclass(slots=True)
class OneEngine:
    """An engine for `model` that is opened when it is first needed. To be used from one thread."""

    model: str
    machine: Machine
    safety: bool
    listener: Listener
    spec: EngineSpec | None = None
    engine: EditEngine | None = None

    @property
    def is_loaded(self) -> bool:
        return self.engine is not None

    def load(self, note: Callable[[str], None]) -> tuple[EngineSpec, EditEngine]:
        """Open it, once. Raises ModelError, MissingError, UsageError, ResourceError."""
        if self.spec is None or self.engine is None:
            spec, open_engine = engines.choose(self.model, self.machine, safety=self.safety, note=note)
            self.spec, self.engine = spec, open_engine()
        return self.spec, self.engine

    def choose(
        self, model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit] = (), note: Callable[[str], None]
    ) -> tuple[EngineSpec, Callable[[], EditEngine]]:  # fmt: skip
        """As `engines.choose`: what comes back lends this engine, whichever model is named. Refusing another one is
        up to the caller.
        """
        spec, engine = self.load(note)
        return spec, lambda: Lent(engine, self.listener)

    def close(self) -> None:
        """Free what it holds."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


class Lent:
    """An EditEngine that stays open when a session closes it: what it has encoded is of use to the next one."""

    def __init__(self, engine: EditEngine, listener: Listener) -> None:
        self._engine, self._listener = engine, listener

    @property
    def limits(self) -> Limits:
        return self._engine.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._engine.limits = limits

    @property
    def steps(self) -> tuple[str, ...]:
        return self._engine.steps

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        """See EditEngine.begin."""
        self._listener.begun(edits)
        return self._engine.begin(edits, sources, _Overheard(edits, self._listener, hook))

    def shrink(self) -> bool:
        return self._engine.shrink()

    def close(self) -> None:
        """It is only given back."""


@dataclass(frozen=True, slots=True)
class _Overheard:
    """A Hook that says of which Edits a step is."""

    edits: Sequence[Edit]
    listener: Listener
    hook: Hook | None

    def step(self, done: int, of: int, preview: Preview) -> bool:
        self.listener.stepped(self.edits, done, of, preview)
        return self.hook is None or self.hook.step(done, of, preview)
