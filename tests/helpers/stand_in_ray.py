"""As much of Ray as our actors use, by threads of this process: what is said is pickled, as from one node to another.

A thread cannot be killed: an actor that is goes on unheard, as one does that was thought dead.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from concurrent import futures
from contextlib import suppress
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What a call to an actor ends with that is no more."""


class GetTimeoutError(RayError):
    """What was asked for has not come."""


exceptions = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)


class Actor:
    """The near end of an actor: its methods are called in threads of their own."""

    def __init__(self, made: Any) -> None:
        self._made, self._calls, self._dead = made, list[futures.Future[Any]](), False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: self.call(name, *given)))

    def call(self, name: str, *given: Any) -> futures.Future[Any]:
        answer, sent = futures.Future[Any](), pickle.dumps(given)
        self._calls.append(answer)

        def work() -> None:
            said = pickle.loads(pickle.dumps(getattr(self._made, name)(*pickle.loads(sent))))
            with suppress(futures.InvalidStateError):  # it was killed meanwhile
                answer.set_result(said)

        if self._dead:
            answer.set_exception(RayError("The actor died unexpectedly before finishing this task."))
        elif name == "words":
            threading.Thread(target=work, daemon=True).start()
        else:  # what is said stays in its order
            work()
        return answer

    def kill(self) -> None:
        self._dead = True
        for answer in self._calls:
            with suppress(futures.InvalidStateError):
                answer.set_exception(RayError("The actor died unexpectedly before finishing this task."))


def remote(**_: Any) -> Any:
    """A class as one of actors. One that is told to end before it has begun ends its thread by SystemExit, of which
    pytest would tell.
    """

    def actors(kind: Any) -> Any:
        class Quiet(kind):  # type: ignore[misc]
            def _serve(self) -> None:
                with suppress(SystemExit):
                    super()._serve()

        return SimpleNamespace(remote=lambda *given: Actor(Quiet(*given)))

    return actors


def wait(calls: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    """See ray.wait."""
    futures.wait(calls, timeout, futures.FIRST_COMPLETED)
    done = [call for call in calls if call.done()][:num_returns]
    return done, [call for call in calls if call not in done]


def get(call: Any, timeout: float | None = None) -> Any:
    """See ray.get."""
    try:
        return call.result(timeout)
    except futures.TimeoutError as error:
        raise GetTimeoutError(str(error)) from error


def kill(actor: Actor, *, no_restart: bool = True) -> None:
    """See ray.kill."""
    actor.kill()
