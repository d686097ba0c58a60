"""An OpenAI-compatible server on this machine that answers by rule, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """What came in: request bodies by path, their headers, and how many requests are still to be turned away."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    failures: int = 0
    refuses: bool = False
    looks: int = 0
    before: Callable[[], None] = lambda: None
    """Called before a completion is given: it may wait."""
    judge: Callable[[dict[str, Any]], Any] = lambda body: ""
    """What a judge of pictures says to a question: words, a whole answer, or (status, headers, body)."""

    def captions(self) -> list[str]:
        """The captions that were asked about."""
        return [body["prompt"].removesuffix("\n##\n").rpartition("\n\n")[2] for body in self.bodies if "prompt" in body]


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Adds snow to every caption, but for those that say what else to do."""
    caption = body["prompt"].removesuffix("\n##\n").rpartition("\n\n")[2]
    text, reason = f"make it snow\n%%\n{caption} in snow", "stop"
    if "unchanged" in caption:
        text = f"nothing\n%%\n{caption.upper()}."
    elif "nonsense" in caption:
        text = "I cannot do that"
    elif "endless" in caption:
        reason = "length"
    return {"choices": [{"text": text, "finish_reason": reason}], "usage": {"completion_tokens": 10}}


def judged(said: Any) -> tuple[Any, ...]:
    """What a judge says as (status, body, headers): words as an endpoint wraps them, all else as it is."""
    if isinstance(said, str):
        usage = {"prompt_tokens": 100, "completion_tokens": 7}
        return 200, {"choices": [{"message": {"content": said}, "finish_reason": "stop"}], "usage": usage}
    return said if isinstance(said, tuple) else (200, said)


@contextmanager
def completion_server() -> Iterator[Asked]:
    """The server for the length of a `with`."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.looks += 1
            self.reply(401, {"error": "no such key"}) if asked.refuses else self.reply(404, {"error": "no such page"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if asked.failures:
                asked.failures -= 1
                return self.reply(503, {"error": "busy"})
            if asked.refuses:
                return self.reply(401, {"error": "no such key"})
            asked.bodies.append(body)
            asked.headers.append(dict(self.headers))
            if self.path == "/v1/moderations":
                return self.reply(200, {"results": [{"flagged": "rude" in text} for text in body["input"]]})
            if self.path == "/v1/chat/completions":
                return self.reply(*judged(asked.judge(body)))
            asked.before()
            return self.reply(200, answer(body))

        def reply(self, status: int, body: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    asked.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
