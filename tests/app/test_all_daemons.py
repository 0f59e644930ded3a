"""Answers of daemons that are asked for their status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from bridge.app.remote import DaemonAddress
from bridge.app.serve.views.all_daemons import status_of
from bridge.ops.status import merge
from tests.kit.waiting import TIMEOUT


@asynccontextmanager
async def served(answer: Callable[[], web.Response]) -> AsyncIterator[DaemonAddress]:
    """Address of a server that has one answer."""

    async def handle(request: web.Request) -> web.Response:
        return answer()

    app = web.Application()
    app.router.add_get("/api/v1/status", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield DaemonAddress(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer take as long as a busy machine needs for it."""
    monkeypatch.setattr("bridge.app.serve.views.all_daemons.FIND_SECONDS", TIMEOUT)


def document(components: int) -> dict[str, Any]:
    """Status of a daemon with many components."""
    part = {"kind": "worker", "state": "ready", "since": None, "seconds": 0.0, "detail": "x" * 200, "daemons": []}
    daemon = {"id": "a/1", "answered": True, "peers": []}
    parts = [{**part, "name": f"c{number}"} for number in range(components)]
    made = {"time": "", "daemons": [daemon], "engines": [], "sources": [], "components": parts, "limits": []}
    return merge([made])


async def test_a_large_status_is_read_to_its_end() -> None:
    """The answer takes many packets: a read of the buffer has only the first ones."""
    sent = document(20_000)
    async with served(lambda: web.Response(body=json.dumps(sent).encode())) as place:
        assert await status_of(place) == sent


async def test_a_status_without_an_end_is_refused() -> None:
    body = b" " * (65 * 1024 * 1024)
    async with served(lambda: web.Response(body=body)) as place:
        found = await status_of(place)
    assert isinstance(found, ValueError)
    assert "longer than" in str(found)
