"""Engines with the bridge's rules in a fresh file, restartable by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.system.clock import Clock


class SteppedClock(Clock):
    """Clock whose wall clock a test steps forward and back."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = int(offset * 1_000_000)
        super().__init__()

    def wall(self) -> int:
        return super().wall() + self.offset

    def step(self, seconds: float) -> None:
        self.offset += int(seconds * 1_000_000)


class Restartable:
    """Database that can be stopped and started again on the same file."""

    def __init__(self, path: Path, options: DatabaseOptions | None = None) -> None:
        self.path = path
        self.options = options
        self.now = self._started()

    def _started(self) -> Database:
        database = Database(self.path, self.options)
        database.start()
        return database

    def again(self) -> Database:
        self.now.stop()
        self.now = self._started()
        return self.now


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Restartable]:
    found = Restartable(tmp_path / "hub.db", DatabaseOptions(rules=BridgeRules()))
    yield found
    found.now.stop()


@pytest.fixture
def database(restartable: Restartable) -> Database:
    return restartable.now
