"""Local brokers for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from bridge.brokers.local import LocalBroker
from bridge.brokers.local.database import open_database
from bridge.brokers.local.log import Log
from bridge.config.model.brokers import LocalBrokerConfig
from tests.brokers.consumer import ORDERS, Assignments, Capabilities, take

NEVER = "1d"
"""Commit interval longer than any test: only flush, revoke and close commit."""


def create_topic(directory: Path, name: str, partitions: int) -> None:
    """Create a topic in the log of a started broker."""
    log = Log(open_database(directory))
    log.begin()
    log.topic(name, partitions)
    log.connection.execute("COMMIT")
    log.close()


class LocalHarness:
    """Directory of a local log, and brokers on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "log"
        self.capabilities = Capabilities()
        self._brokers: list[LocalBroker] = []
        self._crashes = 0

    async def broker(self, revoke_timeout: float = 10.0, **config: object) -> LocalBroker:
        """Start another broker on the directory. config: settings of `LocalBrokerConfig`."""
        settings = LocalBrokerConfig.model_validate({"type": "local", "commit_interval": NEVER, **config})
        broker = LocalBroker("local", self.directory, settings, revoke_timeout=revoke_timeout)
        self._brokers.append(broker)
        await broker.start()
        return broker

    async def crash(self) -> None:
        """Continue with a copy of the present files, as after a power failure."""
        self._crashes += 1
        copy = self.directory.with_name(f"log-{self._crashes}")
        copy.mkdir()
        for name in ("log.db", "log.db-wal"):
            shutil.copy(self.directory / name, copy / name)
        self.directory = copy

    async def arrived(self, count: int) -> list[bytes]:
        """Bodies of the first `count` messages of the topic orders."""
        deliveries = await take(await (await self.broker()).subscribe(ORDERS, Assignments()), count)
        return [delivery.message.body or b"" for delivery in deliveries]

    async def create_topic(self, name: str, partitions: int) -> None:
        await self.broker()
        create_topic(self.directory, name, partitions)

    async def stop(self) -> None:
        for broker in self._brokers:
            await broker.stop()
