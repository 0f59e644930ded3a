"""Common parts of engines that are reached over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.grpc_options import GrpcChannelOptions

from bridge.core.errors import EngineUnavailable, InstanceNotFound
from bridge.engines.errors import translate
from bridge.engines.response_limits import size_options

PROBE_ID = "bridge:probe"
"""Instance id of a probe. The prefix is reserved for the bridge, and no instance has this id."""


def channel_options(
    max_request: int | None, reconnect_seconds: float, proxy: bool, max_answer: int | None = None
) -> GrpcChannelOptions:
    """Options of a gRPC channel of a client, or of a worker on an engine of this installation.

    max_request: largest request in bytes; gRPC refuses a larger one before it is sent. None for no limit, as workers
    need it, because a turn's result must not be lost.
    reconnect_seconds: longest pause between two attempts to connect; gRPC's default is two minutes.
    proxy: use the HTTP proxy of the environment.
    max_answer: largest single response in bytes. None for no limit.
    """
    limits = [] if max_answer is None else size_options(max_answer)
    return _options(max_request, max_answer, reconnect_seconds, proxy, limits)


def worker_options(max_work_item: int, reconnect_seconds: float) -> GrpcChannelOptions:
    """Options of a worker's channel to a remote engine. max_work_item: bytes of the largest work item."""
    return _options(None, max_work_item, reconnect_seconds, True, [])


def _options(
    send: int | None, receive: int | None, reconnect_seconds: float, proxy: bool, more: list[tuple[str, Any]]
) -> GrpcChannelOptions:
    return GrpcChannelOptions(
        max_receive_message_length=-1 if receive is None else receive,
        max_send_message_length=-1 if send is None else send,
        raw_options=[
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", int(reconnect_seconds * 1000)),
            ("grpc.enable_http_proxy", int(proxy)),
            *more,
        ],
    )


async def probe(client: AsyncTaskHubGrpcClient, what: str) -> None:
    """Check an engine with a read of an instance that does not exist.

    Unlike a greeting, the read needs the task hub and the credentials. Raises: EngineError.
    """
    try:
        await client.get_orchestration_state(PROBE_ID, fetch_payloads=False)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # gRPC cancels a call whose channel was closed.
        raise EngineUnavailable(f"{what}: the connection to the engine was closed") from error
    except Exception as error:
        translated = translate(error, what=what)
        if not isinstance(translated, InstanceNotFound):
            raise translated from error
