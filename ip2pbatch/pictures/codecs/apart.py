"""Decoders in processes of their own: one that crashes, hangs or asks for all memory ends such a process and not a run.

A process takes a fifth of a second to start and stays for the next picture; as many work side by side as there are
cores, up to four. What goes wrong in one that has worked before is asked of a new one, so that no picture suffers from
another one.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from ip2pbatch.errors import PhotoError
from ip2pbatch.plan.named import named
from ip2pbatch.plan.photo_digests import check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ip2pbatch.pictures.codecs.decoded import Decoded

_PATIENCE = 300.0  # seconds; a photo of 100 megapixels takes a busy core a tenth of it
_IDLE = 60  # seconds after which a process that nobody needs is gone
_MEMORY, _MEMORY_OF_A_PIXEL = 2 << 30, 20  # bytes
_MOST_FAILURES = 20  # after which a process is replaced: what failed may have kept its memory
_BLOCK = 1 << 20
_PROGRAM = "from ip2pbatch.pictures.codecs.apart import main; main()"

_idle: list[_Worker] = []
_apart = threading.Event()  # set in the other process, whose memory alone may be limited
_room = threading.BoundedSemaphore(max(1, min(4, os.cpu_count() or 1)))


def decode(file: IO[bytes], function: str, least: tuple[int, int] | None) -> Decoded:
    """What `function` ("module:function", called there with the file and `least`) decodes.

    Raises PhotoError, ValueError where the file is damaged, and MemoryError.
    """
    from ip2pbatch.pictures.codecs.decoded import Decoded

    told, (pixels, *alpha) = _asked(file, function, least)
    icc = told["icc"] and base64.b64decode(told["icc"])
    return Decoded(pixels, alpha[0] if alpha else None, icc, tuple(told["notes"]), told["bits"], told["grey"])


def ask(file: IO[bytes], function: str) -> Any:
    """What `function`, called there with the file, returns: anything that JSON holds. Raises as `decode` does."""
    return _asked(file, function)[0]


def end() -> None:
    """End the processes that wait for work; they do so themselves after a minute."""
    while worker := _waiting():
        worker.end()


def room_for(width: int, height: int) -> None:
    """In the other process: memory for a picture of so many pixels, and in any other nothing but the look at the size.

    Raises PhotoError for more than any photo has.
    """
    check_size(width, height)
    if _apart.is_set():
        _limit(_MEMORY + _MEMORY_OF_A_PIXEL * width * height)


def _asked(file: IO[bytes], function: str, *arguments: object) -> tuple[Any, list[NDArray[Any]]]:
    with _room:
        told, arrays = _answered(file, function, arguments)
    if "reason" in told:
        raise {"photo": PhotoError, "memory": MemoryError, "damage": ValueError}[told["kind"]](told["reason"])
    return told["value"], arrays


def _answered(file: IO[bytes], function: str, arguments: tuple[object, ...]) -> tuple[Any, list[NDArray[Any]]]:
    """The answer of a process that waits, or of a new one where that has no answer or no memory."""
    worker = _waiting()
    if worker is not None:
        with contextlib.suppress(_EndedError):
            told, arrays = worker.ask(file, function, arguments)
            if not told.get("short"):  # of memory, which the pictures before may have kept
                return told, arrays
            worker.end()
    try:
        return _Worker().ask(file, function, arguments)
    except _EndedError as error:
        raise PhotoError(str(error), hint="copy it from the camera again") from None


def _waiting() -> _Worker | None:
    """A process that waits for work. Those of a process that this one was forked from are not ours to use."""
    while _idle:
        worker = _idle.pop()
        if worker.alive() and worker.failures < _MOST_FAILURES:
            return worker
        worker.end()
    return None


class _EndedError(Exception):
    """The process ended and has not answered."""


class _Worker:
    """A process with its decoders. A question is a line of JSON and the file; an answer a line and arrays."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self._owner, self._late, self.failures = os.getpid(), False, 0
        atexit.register(self.end)

    def alive(self) -> bool:
        return self._owner == os.getpid() and self._process.poll() is None

    def end(self) -> None:
        """Whatever it is at."""
        atexit.unregister(self.end)
        if self._owner != os.getpid():
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent will not be
                if pipe:
                    pipe.close()
        self._process.wait()

    def ask(self, file: IO[bytes], function: str, arguments: tuple[object, ...]) -> tuple[Any, list[NDArray[Any]]]:
        """What it told, a reason or a value, and its arrays; it waits for work again then.

        Raises PhotoError where it took too long, and _EndedError.
        """
        timer = threading.Timer(_PATIENCE, self._give_up)
        timer.start()
        try:
            self._send(file, function, arguments)
            told, arrays = self._received()
        except (EOFError, BrokenPipeError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)  # so that its own end is told and not ours
            self.end()
            if self._late:
                raise PhotoError(f"its decoder came to no end in {_PATIENCE:.0f} seconds") from None
            code = self._process.returncode
            raise _EndedError(
                f"its decoder {f'crashed (signal {-code})' if code < 0 else f'ended with {code}'}"
            ) from None
        except BaseException:  # what it was about to say must not answer the next question
            self.end()
            raise
        finally:
            timer.cancel()
        self.failures += "reason" in told
        _idle.append(self)
        return told, arrays

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _send(self, file: IO[bytes], function: str, arguments: tuple[object, ...]) -> None:
        pipe, length = self._process.stdin, file.seek(0, os.SEEK_END)
        assert pipe
        file.seek(0)
        pipe.write(json.dumps([function, arguments, length]).encode() + b"\n")
        while length:
            block = file.read(min(length, _BLOCK))
            if not block:
                raise OSError("the file became shorter meanwhile")
            pipe.write(block)
            length -= len(block)
        pipe.flush()

    def _received(self) -> tuple[Any, list[NDArray[Any]]]:
        import numpy as np

        pipe = self._process.stdout
        assert pipe
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        told = json.loads(line)
        arrays = []
        for kind, shape in told.get("arrays", ()):
            array = np.empty(shape, kind)
            left = array.data.cast("B")
            while left:
                count = pipe.readinto(left)  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                left = left[count:]
            arrays.append(array)
        return told, arrays


def main() -> None:
    """The other process: it answers until nobody asks any more."""
    _apart.set()
    _on_its_own()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print must not stand among pixels
        while True:
            _alarm(_IDLE)
            line = sys.stdin.buffer.readline()
            if not line:
                return
            _alarm(round(_PATIENCE) + 5)  # for the case that nobody is left who would end it
            function, arguments, length = json.loads(line)
            told, arrays = _answer(function, arguments, io.BytesIO(sys.stdin.buffer.read(length)))
            out.write(json.dumps(told).encode() + b"\n")
            for array in arrays:
                out.write(array.data)
            out.flush()


def _answer(function: str, arguments: list[Any], file: IO[bytes]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    from ip2pbatch.pictures.codecs.decoded import Decoded

    try:
        _limit(_MEMORY)
        found = named(function)(file, *arguments)
        return _packed(found) if isinstance(found, Decoded) else ({"value": found, "arrays": []}, [])
    except PhotoError as error:
        return {"reason": str(error), "kind": "photo"}, []
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "memory" if isinstance(error, MemoryError) else "damage"
        return {"reason": reason, "kind": kind, "short": kind == "memory" or "memory" in reason.lower()}, []


def _packed(found: Decoded) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    import numpy as np

    arrays = [np.ascontiguousarray(one) for one in (found.pixels, found.alpha) if one is not None]
    icc = found.icc and base64.b64encode(found.icc).decode()
    value = {"icc": icc, "notes": found.notes, "bits": found.bits, "grey": found.grey}
    return {"value": value, "arrays": [(str(one.dtype), one.shape) for one in arrays]}, arrays


def _on_its_own() -> None:
    """Signals that a terminal sends to all are for the run, which ends in order; a crash leaves no core behind."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    try:
        import resource
    except ImportError:  # not on every system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _alarm(seconds: int) -> None:
    if hasattr(signal, "alarm"):  # not on every system
        signal.alarm(seconds)


def _limit(size: int) -> None:
    """Bytes of data that the process may hold from now on; what it only reserves, as threads do, is not counted."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(ValueError, OSError):  # a system without this limit decodes without it
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))
