"""Whole daemon in the test process, on its own engine or on one behind a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import SubscribeOptions
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.message import Message
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.jobs.kind import JobKind
from tests.kit.listener import NullListener
from tests.kit.ports import free_address
from tests.kit.waiting import TIMEOUT, eventually

ENGINES = ("embedded", "behind a port")
"""Engine kinds. The daemon reaches the second one as it reaches the Durable Task Scheduler."""


class DaemonFixture:
    """Running daemon, and access to its topics from outside."""

    def __init__(self, daemon: Daemon, host: EmbeddedEngine | None) -> None:
        self.daemon = daemon
        self.host = host
        """Engine behind the port, which a test can stop and start; None for an engine in the daemon."""

    @property
    def client(self) -> Any:
        return self.daemon.engines["default"].client

    async def publish(self, topic: str, data: Any, key: str | None = None, **headers: str) -> None:
        message = Message(orjson.dumps(data), None if key is None else key.encode(), _encoded(headers))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        await self.daemon.brokers["local"].publish(topic, [message])

    async def read(self, topic: str, count: int) -> list[Message]:
        """Return the first `count` messages of a topic."""
        subscription = await self.daemon.brokers["local"].subscribe(
            SubscribeOptions((topic,), "reader"), NullListener()
        )
        found: list[Message] = []
        try:
            async with asyncio.timeout(TIMEOUT):
                while len(found) < count:
                    found += [delivery.message for delivery in await subscription.receive(count - len(found))]
        finally:
            await subscription.close()
        return found

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await eventually(condition, what)

    async def settled(self, count: int) -> None:
        ledgers = [source.ledger for source in self.daemon.sources]
        await self.until(lambda: sum(sum(each.outcomes.values()) for each in ledgers) >= count, f"{count} settled")

    def outcomes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for source in self.daemon.sources:
            for outcome, count in source.ledger.outcomes.items():
                if count:
                    found[str(outcome)] = found.get(str(outcome), 0) + count
        return found


@asynccontextmanager
async def running(
    directory: Path,
    config: str,
    flows: str,
    engine: str = "embedded",
    broker: str = "{type: local}",
    settings: str = "",
    lineage: str = "embedded",
    endpoint: str | None = None,
    kinds: Sequence[JobKind] = (),
    ops: str = "",
) -> AsyncIterator[DaemonFixture]:
    """Start a daemon and stop it at the end.

    config: without `engine`, `brokers` (one called `local`) and `ops`. flows: source text of the workflow module.
    settings: of the engine, after a comma. lineage: index of messages.
    endpoint: of a scheduler, instead of an engine behind a port. kinds: further kinds of jobs.
    ops: further settings of `ops`, after a comma.
    """
    async with AsyncExitStack() as stack:
        declared = f"{{type: embedded{settings}}}"
        host = None
        if endpoint is not None:
            declared = f'{{type: scheduler, endpoint: "{endpoint}"{settings}}}'
        elif engine != "embedded":
            address = free_address()
            host = EmbeddedEngine("x", EmbeddedEngineConfig(type="embedded", listen=address), directory / "host", True)
            await host.start()
            stack.push_async_callback(host.stop)
            declared = f'{{type: scheduler, endpoint: "http://{address}"{settings}}}'
        name = f"flows_{abs(hash(str(directory)))}"
        (directory / f"{name}.py").write_text(flows)
        (directory / "bridge.yaml").write_text(
            f"engine: {declared}\nbrokers: {{local: {broker}}}\n"
            f"ops: {{http: {{port: 0}}, lineage: {{index: {lineage}}}{ops}}}\n"
            + (config.replace("NAME", name) if "workflows:" in config else f"workflows: [{name}]\n{config}")
        )
        daemon = Daemon(load_config([directory / "bridge.yaml"]), kinds=kinds)
        await daemon.start()
        stack.push_async_callback(daemon.stop, 20.0)
        yield DaemonFixture(daemon, host)


def headers(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers}


def _encoded(given: dict[str, str]) -> Sequence[tuple[str, bytes]] | Any:
    return tuple((name, value.encode()) for name, value in given.items())
