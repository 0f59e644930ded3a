"""HTTP server that answers as a registry with any given bytes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

Answer = bytes | list[bytes | float]
"""Bytes of a whole HTTP response; or parts of it, with seconds to wait between them."""


def response(body: bytes, status: int = 200, *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", "Connection: close", *headers]
    head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answer(value: Any, status: int = 200) -> bytes:
    return response(json.dumps(value).encode(), status)


class HostileRegistry:
    """Registry that answers each request with `answer_to` of its path.

    asked: the requested paths. heads: requests as received, without bodies.
    """

    def __init__(self, answer_to: Callable[[str], Answer]) -> None:
        self.answer_to = answer_to
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostile-registry", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self.asked.append(path)
            self.heads.append(head)
            found = self.answer_to(path)
            for part in [found] if isinstance(found, bytes) else found:
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            writer.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
