"""Private parts of the schema libraries: two uses, each with a fallback.

tests/codecs/confluent/test_sdk_internals.py fails when a library changes one of these parts.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any


def http_library() -> ModuleType:
    """HTTP library of Confluent's registry client, for its errors and its logger: `httpx2` or `httpx`."""
    found = getattr(_module("confluent_kafka.schema_registry.common._httpx_compat"), "httpx", None)
    if isinstance(found, ModuleType):
        return found
    return _module("httpx2") or importlib.import_module("httpx")


def bound_answers(client: Any, size: int, refusal: Callable[[], Exception]) -> None:
    """Let a registry client read at most `size` bytes of an answer, request uncompressed answers and keep no cookies.

    The client itself reads an answer of any size, decompresses it, and then parses it. It keeps cookies without limit.
    When its HTTP session is not found, its answers are not limited.
    """
    session = getattr(getattr(client, "_rest_client", None), "session", None)
    if session is None:
        return

    async def bound(response: Any) -> None:
        session.cookies.clear()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("compressed")
        response.stream = _Bounded(response.stream, size, refusal)

    session.headers["Accept-Encoding"] = "identity"
    session.event_hooks = {"response": [bound]}


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _Bounded(http_library().AsyncByteStream):  # type: ignore[misc]  # the library is found at run time
    """Body of an answer, limited in size."""

    def __init__(self, stream: Any, size: int, refusal: Callable[[], Exception]) -> None:
        self._stream = stream
        self._size = size
        self._refusal = refusal

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._size
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise self._refusal()
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
