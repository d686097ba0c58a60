"""The server: a socket on the loopback, uvicorn over it, and the exploration behind it, until ^C."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ip2pbatch.errors import UsageError
from ip2pbatch.jobs.exploring.workbench import opened
from ip2pbatch.studio.api import app
from ip2pbatch.studio.broadcast import Hub
from ip2pbatch.studio.desk import Desk
from ip2pbatch.studio.guard import Door

if TYPE_CHECKING:
    from ip2pbatch.jobs.exploring.setting import Setting

LOOPBACK, PORT = "127.0.0.1", 8765
_EVERYWHERE = ("0.0.0.0", "::", "")
_DRAIN = 3  # seconds for answers that are under way when it ends


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens: `host` and the `port` that the system gave, and the `token` that lets in."""

    host: str
    port: int
    token: str

    @property
    def first(self) -> str:
        """What a person opens."""
        host = "localhost" if self.host in _EVERYWHERE else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"

    def door(self) -> Door:
        names = {"127.0.0.1", "localhost", "[::1]", f"[{self.host}]" if ":" in self.host else self.host} - {""}
        return Door(self.token, {f"{name}:{self.port}" for name in names}, any_address=self.host in _EVERYWHERE)


class _Server(uvicorn.Server):
    """One that lets go of the pages that listen as soon as it is asked to end."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._hub.close()
        super().handle_exit(sig, frame)


def bound(host: str, port: int | None, token: str | None) -> tuple[socket.socket, Address]:
    """The socket that it will answer at; without a port the usual one, or a free one where that is taken.

    Raises UsageError where it may not be opened to a network, or the port is taken.
    """
    if host not in (LOOPBACK, "localhost", "::1") and not token:
        why = f"--host {host} opens the studio to a network, where anybody could guess at it"
        raise UsageError(why, hint="give a secret of your own with --token, at least 16 letters")
    if token is not None and len(token) < 16:
        raise UsageError("--token is shorter than 16 letters", hint="let the studio make one up: leave it out")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (PORT, 0) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, wanted))
        except OSError as error:
            listening.close()
            if port is None and wanted:
                continue
            why = f"cannot listen on {host}:{wanted}: {error.strerror or error}"
            raise UsageError(why, hint="name another --port or --host") from error
        return listening, Address(host, listening.getsockname()[1], token or secrets.token_urlsafe(24))
    raise AssertionError("a free port is always tried last")


def serve(
    setting: Setting, listening: socket.socket, address: Address, begun: Callable[[], None] = lambda: None,
    ends: threading.Event | None = None,
) -> None:  # fmt: skip
    """Answer until ^C or SIGTERM, or `ends` is set; `begun` is called when it answers. Raises PlanError."""
    hub = Hub()
    desk = Desk(hub)
    with listening, opened(setting, desk) as exploring:
        desk.exploring = exploring
        config = uvicorn.Config(
            app(desk, address.door()), log_level="error", access_log=False, lifespan="off", server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=_DRAIN, ws="none",
        )  # fmt: skip
        server = _Server(config, hub)
        listening.listen()
        begun()
        if ends is not None:
            threading.Thread(target=_end, args=(ends, server), daemon=True).start()
        server.run(sockets=[listening])


def _end(ends: threading.Event, server: _Server) -> None:
    ends.wait()
    server.handle_exit(2, None)
