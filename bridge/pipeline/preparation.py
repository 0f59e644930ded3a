"""Preparation of decoding: schema look-ups in a registry that may be unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bridge.core.errors import RegistryUnavailable
from bridge.core.message import Message
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.flow_control import FlowControl

log = structlog.get_logger("bridge.source")

Prepare = Callable[[Sequence[Message]], Awaitable[None]]
"""Callback that looks up what decoding these messages needs. Raises: RegistryUnavailable."""

_HOLD = "schema registry"


async def prepared(
    prepare: Prepare, messages: Sequence[Message], source: str, gate: FlowControl, retry: RetryPolicy
) -> None:
    """Return when the messages can be decoded. Hold the source until then.

    The caller must not take in later messages meanwhile: they may have the same key.
    """
    failures = 0
    while True:
        try:
            await prepare(messages)
        except RegistryUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning("registry away", action="hold", source=source, detail=str(error))
            gate.hold(_HOLD, str(error))
            await asyncio.sleep(retry.delay(failures))
        else:
            if failures:
                gate.release(_HOLD)
            return
