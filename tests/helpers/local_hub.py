"""A hub on this machine with data sets: listings, headers, whole files and ranges of them, as the real one answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ip2pbatch.backends import hub


class LocalHub:
    """Data sets by name, each with its commits, the newest last; and what was asked for."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, dict[str, bytes]]] = {}
        self.whole: list[str] = []  # names of files that were fetched whole
        self.ranges: list[tuple[str, int]] = []  # names and lengths of those that were asked for in part
        self.gated: set[str] = set()
        self.failing = 0  # so many of the next files are answered with 503

    def put(self, name: str, files: dict[str, bytes]) -> str:
        """A new commit of a data set."""
        commits = self.sets.setdefault(name, {})
        commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        hub.look_up_data.cache_clear()  # as another process would ask anew
        return commit

    def listing(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files."""
        commits = self.sets.get(name, {})
        commit = list(commits)[-1] if revision == "main" and commits else revision
        return (commit, commits[commit]) if commit in commits else None


def handler(local: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers for `local`."""

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if not path.startswith("/api/datasets/"):
                self._file(body=True)
                return
            owner, name, _, revision = path.removeprefix("/api/datasets/").split("/")
            found = local.listing(f"{owner}/{name}", revision)
            if found is None:
                missing = "RevisionNotFound" if f"{owner}/{name}" in local.sets else "RepoNotFound"
                self._answer(404, {"X-Error-Code": missing}, b"{}")
                return
            siblings = [
                {"rfilename": one, "size": len(data), "blobId": hashlib.sha1(data).hexdigest(),
                 "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
                for one, data in found[1].items()
            ]  # fmt: skip
            said = {"id": f"{owner}/{name}", "sha": found[0], "siblings": siblings, "private": False, "gated": False}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(said).encode())

        def _file(self, body: bool) -> None:
            _, _, owner, name, _, revision, file = self.path.partition("?")[0].split("/", 6)
            if f"{owner}/{name}" in local.gated:
                self._answer(403, {"X-Error-Code": "GatedRepo"})
                return
            found = local.listing(f"{owner}/{name}", revision)
            if found is None or file not in found[1]:
                self._answer(404, {"X-Error-Code": "EntryNotFound"})
                return
            data = found[1][file]
            headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            if body and local.failing:
                local.failing -= 1
                self._answer(503, {}, b"busy")
            elif body and (asked := self.headers.get("Range")):
                begin, end = asked.removeprefix("bytes=").split("-")
                part = data[int(begin) : int(end) + 1 if end else None]
                local.ranges.append((file, len(part)))
                self._answer(206, headers | {"Content-Range": f"bytes {begin}-{end}/{len(data)}"}, part)
            elif body:
                local.whole.append(file)
                self._answer(200, headers, data)
            else:
                self._answer(200, headers, length=len(data))

        def _answer(self, code: int, headers: dict[str, str], body: bytes = b"", length: int | None = None) -> None:
            self.send_response(code)
            count = str(len(body) if length is None else length)
            for key, value in {**headers, "Content-Length": count}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub that this process takes for the real one."""
    local = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(local))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.look_up_data.cache_clear()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        hub.look_up_data.cache_clear()
