"""Fixtures with a durable engine in a fresh file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import SidecarService


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "hub.db", DatabaseOptions(rules=BridgeRules()))
    database.start()
    yield database
    database.stop()


@pytest.fixture
def service(database: Database) -> SidecarService:
    return SidecarService(database)
