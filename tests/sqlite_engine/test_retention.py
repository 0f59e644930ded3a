"""Retention removes finished instances by age and number; others stay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions, RetentionPolicy
from tests.kit.protocol_client import ProtocolClient, call, complete, start
from tests.kit.waiting import eventually_blocking


def remaining(database: Database) -> list[str]:
    states = call(database, "QueryInstances", pb.QueryInstancesRequest()).orchestrationState
    return [state.instanceId for state in states]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (RetentionPolicy(age=0.0, period=0.02), ["open"]),
        (RetentionPolicy(count=3, period=0.02), ["open", "w-247", "w-248", "w-249"]),
        (RetentionPolicy(age=3600.0, count=300, period=0.02), ["open", *[f"w-{n}" for n in range(250)]]),
    ],
)
def test_limits(tmp_path: Path, policy: RetentionPolicy, kept: list[str]) -> None:
    database = Database(tmp_path / "hub.db", DatabaseOptions(retention=policy))
    database.start()
    try:
        start(database, "open", "open")
        remote = ProtocolClient(database)
        remote.turn(remote.take())
        for number in range(250):
            start(database, "work", f"w-{number}")
            remote.turn(remote.take(), complete(1))
        eventually_blocking(lambda: remaining(database) == kept)
        time.sleep(0.1)
        assert remaining(database) == kept
    finally:
        database.stop()
