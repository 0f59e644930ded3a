"""Activity of `bridge.workflow.publish`: from an activity thread to a broker and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bridge.brokers.base import Broker
from bridge.codecs.base import Codec, PreparedCodec
from bridge.core.errors import BrokerUnavailable, UnknownTarget
from bridge.core.message import Event, Message
from bridge.pipeline.tracing import PublishTracing

UNKNOWN = "(unknown)"
"""Metric label of all targets that the configuration does not have: their names are unbounded."""

NAME_LIMIT = 100
"""Most characters of an unknown target's name in an error."""

KNOWN_LIMIT = 10
"""Most targets that an error lists."""


def _as_it_is(message: Message) -> Message:
    return message


class TargetClaims(Protocol):
    """Protocol of the claim check of one target, for its large payloads."""

    def apply(self, event: Event, message: Message) -> Message:
        """Message with a reference in the place of a large body. Blocks. Raises: BridgeError."""
        ...


@dataclass(frozen=True, slots=True)
class PublishTarget:
    """Destination of publications.

    source: the CloudEvents `source`.
    timeout: deadline of one publish in seconds.
    shape: function applied to a message before the broker gets it.
    system: kind of the broker in the conventions of OpenTelemetry.
    claims: puts large payloads elsewhere; None: messages have their payload.
    """

    broker: Broker
    topic: str
    codec: Codec
    source: str
    timeout: float
    shape: Callable[[Message], Message] = _as_it_is
    system: str = ""
    claims: TargetClaims | None = None


def _event(request: Mapping[str, Any], target: PublishTarget) -> Event:
    return Event(
        id=request["id"],
        source=target.source,
        type=request["type"],
        data=request.get("data"),
        subject=request.get("subject"),
        time=request.get("time"),
        extensions=request.get("extensions") or {},
        headers=request.get("headers") or {},
        key=request.get("key"),
    )


def _message(request: Mapping[str, Any], target: PublishTarget, event: Event) -> Message:
    """Message of a request. Blocks where the target has claim checks. Raises: BridgeError."""
    encoded = target.codec.encode(event)
    message = replace(
        encoded if target.claims is None else target.claims.apply(event, encoded),
        partition_key=request.get("partition_key"),
        enqueue_at=request.get("enqueue_at"),
        time_to_live=request.get("time_to_live"),
    )
    return target.shape(message)


class Publishing:
    """Publishes to the configured targets. Call it from any thread but the event loop's."""

    def __init__(
        self,
        targets: Mapping[str, PublishTarget],
        loop: asyncio.AbstractEventLoop,
        on_published: Callable[[Mapping[str, Any]], None] | None = None,
        tracing: PublishTracing | None = None,
    ) -> None:
        """Create the publisher.

        on_published: receives each request that a broker has accepted.
        tracing: makes the spans of publications; None where traces are off.
        """
        self._targets = targets
        self._on_published = on_published
        self._loop = loop
        self._tracing = tracing
        self.published: Counter[str] = Counter()
        """Messages that the brokers accepted, by target."""
        self.failed: Counter[str] = Counter()

    def replace(self, targets: Mapping[str, PublishTarget]) -> None:
        """Publish to other targets from the next request on."""
        self._targets = targets

    def __call__(self, request: Mapping[str, Any]) -> str:
        """Publish a request of `bridge.workflow.publish`; return the event's id.

        Raises: UnknownTarget, where no retry can help; PublishFailed, BrokerUnavailable and RegistryUnavailable (the
        activity fails, and the engine's retry policy applies); DecodeError or SchemaError when the data cannot be
        written in the target's format.
        """
        name = str(request["target"])
        target = self._target(name)
        event = _event(request, target)
        began = time.time_ns()
        end = time.monotonic() + target.timeout
        with self._counted(name, target):
            if isinstance(target.codec, PreparedCodec):
                self._wait(target.codec.prepare_encode(event), end)
            self._wait(target.broker.publish(target.topic, [_message(request, target, event)]), end)
        if self._tracing is not None:
            self._tracing.sent(event, name, target.topic, target.system, began)
        if self._on_published is not None:
            self._on_published(request)
        return event.id

    async def publish(self, request: Mapping[str, Any]) -> None:
        """Publish a small request of the daemon itself, on the event loop. Raises: as a call."""
        name = str(request["target"])
        target = self._target(name)
        event = _event(request, target)
        with self._counted(name, target):
            async with asyncio.timeout(target.timeout):
                if isinstance(target.codec, PreparedCodec):
                    await target.codec.prepare_encode(event)
                if target.claims is None:
                    message = _message(request, target, event)
                else:
                    message = await asyncio.to_thread(_message, request, target, event)
                await target.broker.publish(target.topic, [message])

    def _target(self, name: str) -> PublishTarget:
        """Target of a name. Raises: UnknownTarget."""
        target = self._targets.get(name)
        if target is None:
            self.failed[UNKNOWN] += 1
            raise UnknownTarget(self._unknown(name))
        return target

    @contextmanager
    def _counted(self, name: str, target: PublishTarget) -> Iterator[None]:
        """Count a publication and its failure. Raises: BrokerUnavailable in place of a timeout."""
        try:
            yield
        except TimeoutError as error:
            self.failed[name] += 1
            raise BrokerUnavailable(f"target {name}: the broker did not confirm within {target.timeout:g} s") from error
        except Exception:
            self.failed[name] += 1
            raise
        self.published[name] += 1

    def _unknown(self, name: str) -> str:
        shown = name if len(name) <= NAME_LIMIT else f"{name[:NAME_LIMIT]}..."
        near = difflib.get_close_matches(shown, self._targets, n=1)
        known = ", ".join(sorted(self._targets)[:KNOWN_LIMIT]) or "none"
        meant = f"did you mean {near[0]!r}?" if near else f"configured targets: {known}"
        return f"target {shown!r} is not configured; {meant}"

    def _wait(self, work: Coroutine[Any, Any, object], end: float) -> None:
        """Run a coroutine on the event loop. Raises: TimeoutError at monotonic time `end`."""
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            done.result(max(0.0, end - time.monotonic()))
        except concurrent.futures.TimeoutError:
            done.cancel()
            raise
