"""Receiver of webhooks: an HTTP server in a thread of the test."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Received:
    """Request. headers: by name in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class WebhookReceiver:
    """Receiver. Use it as a context manager.

    requests: all requests, in the order of their arrival; accepted: those that were answered with 2xx.
    answers: status and headers of the next answers; then `status`.
    gate: requests wait until it is set.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.accepted: list[Received] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.status = 204
        self.body = b""
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http{'' if tls is None else 's'}://127.0.0.1:{self.port}/hooks?team=ops"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, statuses: Sequence[int], **headers: str) -> None:
        """Give the next requests these answers. headers: with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.extend((status, named) for status in statuses)

    def events(self, type_: str = "") -> list[Any]:
        """Accepted events in the order of their arrival, all or those whose type contains a text."""
        with self._lock:
            return [each.event for each in self.accepted if type_ in each.event["type"]]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                with receiver._lock:
                    receiver.requests.append(received)
                    status, headers = receiver.answers.popleft() if receiver.answers else (receiver.status, {})
                    if 200 <= status < 300:
                        receiver.accepted.append(received)
                receiver.gate.wait()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(receiver.body)))
                self.end_headers()
                with suppress(ConnectionError):  # the client reads no more
                    self.wfile.write(receiver.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
                pass

        return Handler
