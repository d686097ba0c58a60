"""The cluster of a run: the one that RAY_ADDRESS names, or one of this machine that begins and ends with the run."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.run.devices.far_end import FarEnd
from ip2pbatch.run.devices.worker import Worker
from ip2pbatch.run.on_ray.actors import RayActors
from ip2pbatch.run.on_ray.capacity import Node, Room, Wanted, room_for
from ip2pbatch.run.on_ray.keeper import Keeper

ADDRESS = "RAY_ADDRESS"
INSTALL = "pip install 'ip2pbatch[ray]'"
_SAYS = "print_to_stdstream"
_LONGEST = 40  # bytes of a folder in which Ray can still name its sockets
_OWN = {"object_store_memory": 128 << 20, "_system_config": {"prestart_worker_first_driver": False}}

log = logging.getLogger("ip2pbatch.run")


@contextmanager
def connected(
    wanted: Wanted, versions: Mapping[str, str], worker: type[FarEnd] = Worker
) -> Iterator[tuple[RayActors, Room]]:
    """What starts such workers on the cluster, and how many it has room for. `versions` are what they need to have.

    Raises MissingError without Ray or a cluster that answers, and UsageError where that is of another version.
    """
    with ExitStack() as held:
        ray = imported()
        if not ray.is_initialized():
            held.enter_context(_session(ray, wanted.bounds[0] if wanted.bounds else 1))
        room = room_for(wanted, nodes(ray))
        yield RayActors(ray, room, versions, worker), room


def nodes(ray: ModuleType) -> list[Node]:
    """What the nodes offer that are there now."""
    offered = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in offered]


def imported() -> ModuleType:
    """Ray. Raises MissingError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it is read as Ray starts: nothing is sent anywhere
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingError("--on ray needs Ray, which is not installed", hint=INSTALL) from error


@contextmanager
def _session(ray: ModuleType, least: int) -> Iterator[None]:
    """This process is a driver of the cluster, to the end of the block; one of its own has room for `least` workers."""
    address = os.environ.get(ADDRESS)
    with ExitStack() as held:
        if not address:
            keeper = Keeper(_folder())
            held.callback(keeper.end)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray would keep one in the home folder
            held.callback(ray.shutdown)
            cpus = max(least, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
            _begin(ray, "local", num_cpus=cpus, include_dashboard=False, _temp_dir=str(keeper.folder), **_OWN)
            keeper.note()
        else:
            held.callback(ray.shutdown)
            _begin(ray, address)
        yield


def _begin(ray: ModuleType, address: str, **own: object) -> None:
    """Ray would have SIGTERM end the process at once, and its own say on stderr."""
    heard = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    if hasattr(ray._private.worker, _SAYS):  # Ray prints on stdout what its nodes met, and stdout is data
        setattr(ray._private.worker, _SAYS, _noted)
    try:
        ray.init(
            address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **own
        )  # fmt: skip
    except (ConnectionError, TimeoutError) as error:
        hint = f"{ADDRESS} names the head of the cluster, as HOST:6379; without it the run starts one here"
        raise MissingError(f"no Ray cluster answers at {address}", hint=hint) from error
    except (RuntimeError, ray.exceptions.AuthenticationError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"Ray does not begin: {said}", hint="the same Ray and Python are needed everywhere") from error
    except Exception as error:  # Ray has no name for a node that did not begin in half a minute
        said = " ".join(str(error).split())
        raise MissingError(f"Ray does not begin: {said}", hint="a machine that is very busy: try again") from error
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray takes it there alone, and nobody else may
            signal.signal(signal.SIGTERM, heard)


def _noted(said: Mapping[str, Any], *_: object, **__: object) -> None:
    for line in said.get("lines", ()):
        log.debug("Ray: %s", str(line).splitlines()[0] if line else "")


def _folder() -> Path:
    """Where Ray has its files and sockets: the names of these may not be long."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="ip2p-", dir=usual if len(os.fsencode(usual)) <= _LONGEST else "/tmp"))
