"""Engine files of older builds: they gain the lineage index, and their instances are found by a search."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import EngineTracer
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import ScheduleOrchestration
from bridge.core.origin import MessageOrigin, read_origin
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.maintenance.upkeep import check
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.store import Store
from tests.upgrade.opened import RECORDINGS, Opened


def started_by_messages(path: Path) -> dict[str, str]:
    """Instances by the message that started them."""
    with closing(sqlite3.connect(path)) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM instances")]
        store, found = Store(connection, Payloads()), {}
        for id_ in ids:
            instance = store.instance_by_id(id_)
            assert instance is not None
            origin = read_origin(instance.start.executionStarted.input.value).origin
            if origin is not None:
                found[origin.message_id] = id_
        return found


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
async def test_instances_of_an_older_file_are_found(recording: Path, tmp_path: Path) -> None:
    directory = Opened(recording, tmp_path / "state").directory / "engine"
    assert check(directory / "engine.db") == []
    old = started_by_messages(directory / "engine.db")
    assert len(old) > 10
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), directory, True, lineage_records=10)
    await engine.start()
    try:
        tracer = EngineTracer(engine)
        for message_id in sorted(old)[:3]:
            found = await tracer.find(message_id, SearchScope(all=True))
            assert old[message_id] in [one.instance_id for one in found.instances]
            assert (found.index, found.searched > 10) == ("partial", True), "the answer says that it has searched"
        new = MessageOrigin("/new m-1", "route", position="c/t/0@1")
        await CommandRunner(engine).execute(ScheduleOrchestration("nobody", "new-1"), new)
        found = await tracer.find("m-1", SearchScope())
        assert ([one.instance_id for one in found.instances], found.searched) == (["new-1"], 0)
    finally:
        await engine.stop()
    assert check(directory / "engine.db") == []
