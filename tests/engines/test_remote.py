"""A probe on a closed connection reports an outage; a cancelled probe is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from durabletask.client import AsyncTaskHubGrpcClient

from bridge.core.errors import EngineUnavailable
from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.remote import probe
from bridge.sqlite_engine.protocol.service import SidecarService


async def test_a_connection_that_is_closed_is_an_outage(service: SidecarService) -> None:
    client = AsyncTaskHubGrpcClient(channel=AioChannel(service))

    async def closed(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError  # raised by grpc.aio for calls on a closed channel

    client.get_orchestration_state = closed  # type: ignore[method-assign]  # fails in place of the real call
    with pytest.raises(EngineUnavailable, match="connection to the engine was closed"):
        await probe(client, "engine 'default'")


async def test_a_cancelled_probe_is_cancelled(service: SidecarService) -> None:
    client = AsyncTaskHubGrpcClient(channel=AioChannel(service))
    asked = asyncio.Event()

    async def never(*_: Any, **__: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    client.get_orchestration_state = never  # type: ignore[method-assign]  # hangs in place of the real call
    probing = asyncio.create_task(probe(client, "engine 'default'"))
    await asked.wait()
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
