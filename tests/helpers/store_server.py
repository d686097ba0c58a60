"""A store on the loopback that speaks S3 (moto's), and a way to it on which single requests go wrong."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRET = "qN8wZsecretXk3vRtYbLp7HdUf2mCaJ9eGo"
"""What no output may ever hold."""
HALF, LOST = -1, -2
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAQUITEPUBLIC", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


@dataclass
class StoreServer:
    """Where it listens. `fails` spoils the next requests `METHOD /bucket/key` that hold the text: with a status, a
    text that S3 refuses with, by closing the line (0), after half of what was asked for or is sent (HALF), or as the
    store has answered, whose answer is lost (LOST). `before` hears of each before it is passed on. `asked` are all.
    `behind` is where the store itself listens, for whoever measures.
    """

    address: str
    behind: tuple[str, int]
    fails: list[tuple[str, int | str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda line: None
    down: bool = False

    def counted(self, *words: str) -> int:
        """How many requests hold all of these."""
        return sum(all(word in line for word in words) for line in self.asked)

    def reset(self) -> None:
        """As it was at first, but for its buckets."""
        self.fails, self.asked, self.before, self.down = [], [], lambda line: None, False


_MOTO = (
    "import sys, logging; from moto.server import ThreadedMotoServer; "
    "logging.getLogger('werkzeug').setLevel(logging.ERROR); "
    "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start(); "
    "print(server.get_host_and_port()[1], flush=True); sys.stdin.read(); server.stop()"
)


@contextmanager
def serving() -> Iterator[StoreServer]:
    """The store in a process of its own, which ends with its input, behind a proxy that counts and spoils."""
    moto = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert moto.stdin
    assert moto.stdout
    port = int(moto.stdout.readline())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    server.daemon_threads = True
    store = StoreServer(f"http://127.0.0.1:{server.server_address[1]}", ("127.0.0.1", port))
    server.store = store  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        moto.stdin.close()
        moto.wait()
        moto.stdout.close()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass_on(self) -> None:
        store: StoreServer = self.server.store  # type: ignore[attr-defined]
        line = f"{self.command} {self.path}"
        store.asked.append(line)
        length = int(self.headers.get("Content-Length") or 0)
        cut = self.command == "PUT" and any(text in line and how == HALF for text, how in store.fails)
        body = self.rfile.read(length // 2 if cut else length)
        store.before(line)
        half = lost = False
        if store.down:
            self._spoil(0)
            return
        for one in store.fails:
            if one[0] in line:
                store.fails.remove(one)
                half, lost = one[1] == HALF, one[1] == LOST
                if cut or not (half or lost):
                    self._spoil(0 if cut else one[1])
                    return
                break
        behind = http.client.HTTPConnection(*store.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        if lost:
            self._spoil(0)
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = half
        behind.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 (as http.server calls them)

    def _spoil(self, how: int | str) -> None:
        said = how.encode() if isinstance(how, str) else b""
        if how:
            self.send_response(403 if said else int(how))
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


class Bucket:
    """A bucket of the store, by the library that the package uses too."""

    def __init__(self, store: StoreServer, name: str) -> None:
        from obstore.store import S3Store

        keys = {"access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "secret_access_key": SECRET, "region": "us-east-1"}
        self.name = name
        self._store = S3Store(name, endpoint=store.address, client_options={"allow_http": True}, **keys)
        line = http.client.HTTPConnection(store.address.removeprefix("http://"))
        line.request("PUT", f"/{name}")
        assert line.getresponse().status == 200
        line.close()

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object."""
        self._store.put(key, data)

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Write every file below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path)

    def get(self, key: str) -> bytes:
        """What an object holds."""
        return bytes(self._store.get(key).bytes())

    def keys(self) -> set[str]:
        """Those of all objects."""
        return {meta["path"] for page in self._store.list() for meta in page}

    def kind(self, key: str) -> str:
        """What an object says that it is."""
        return str(self._store.get(key).attributes["Content-Type"])

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._store.delete(key)
