"""Operations on orchestrations, on the embedded engine over its socket."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from bridge.app.connection import attached
from bridge.app.operations.instances.instances import InstanceFilter, InstanceOperations, StartRequest
from bridge.app.operations.instances.timeline import as_json, timeline
from bridge.config.source import Loaded, load
from bridge.core.errors import (
    EngineRejected,
    EngineUnavailable,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
    InvalidCommand,
)
from tests.app.project import EngineThread, write_project
from tests.kit.waiting import TIMEOUT, eventually


@pytest.fixture
async def instances(loaded: Loaded, host: EngineThread) -> AsyncIterator[InstanceOperations]:
    async with attached(loaded) as engine:
        yield InstanceOperations(engine)


@pytest.fixture
def prefix() -> str:
    """Prefix of instance ids that no other test uses."""
    return f"t{uuid4().hex[:8]}-"


async def finish(instances: InstanceOperations, instance_id: str, status: str = "COMPLETED") -> None:
    one = await instances.wait(instance_id, "completion", TIMEOUT)
    assert one is not None
    assert one.status == status


async def test_start_wait_and_show(instances: InstanceOperations, prefix: str) -> None:
    began = datetime.now(UTC)
    assert await instances.start(StartRequest("greet", "ada", prefix + "1", tags={"by": "test"})) == (
        prefix + "1",
        True,
    )
    await finish(instances, prefix + "1")
    one = await instances.show(prefix + "1")
    assert (one.name, one.status, one.input, one.output, one.failure) == (
        "greet", "COMPLETED", "ada", "hello ada", None,
    )  # fmt: skip
    assert abs(datetime.fromisoformat(one.created_at) - began) < timedelta(minutes=1)
    assert one.finished


async def test_an_id_is_made_when_none_is_given(instances: InstanceOperations) -> None:
    instance_id, _ = await instances.start(StartRequest("greet", "bob"))
    await finish(instances, instance_id)
    with pytest.raises(InstanceAlreadyExists):
        await instances.start(StartRequest("greet", "bob", instance_id))


@pytest.mark.parametrize("instance_id", ["", "@counter@1", "bridge:probe", "a/b", "x" * 1000])
async def test_ids_that_no_rule_may_use_are_refused(instances: InstanceOperations, instance_id: str) -> None:
    with pytest.raises(InvalidCommand):
        await instances.start(StartRequest("greet", "bob", instance_id))


async def test_a_start_can_be_put_off(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("greet", "later", prefix + "1", delay=3600))
    await instances.start(StartRequest("greet", "past", prefix + "2", start_at=datetime.now(UTC) - timedelta(hours=1)))
    await finish(instances, prefix + "2")
    assert (await instances.show(prefix + "1")).status == "PENDING"
    assert await instances.wait(prefix + "1", "start", 0.05) is None


async def test_raise_event(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("waits", None, prefix + "1"))
    assert await instances.wait(prefix + "1", "start", TIMEOUT) is not None
    await instances.raise_event(prefix + "1", "go", {"how": ["fast", 2**70]})
    await finish(instances, prefix + "1")
    one = await instances.show(prefix + "1")
    assert (one.output, one.custom_status) == ({"how": ["fast", 2**70]}, {"stage": "waiting"})
    with pytest.raises(InstanceFinished):
        await instances.raise_event(prefix + "1", "go", None)


async def test_suspend_and_resume(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("waits", None, prefix + "1"))
    await instances.wait(prefix + "1", "start", TIMEOUT)
    await instances.suspend(prefix + "1", "the customer thinks")

    async def reached() -> object:
        return (await instances.show(prefix + "1")).status == "SUSPENDED"

    await eventually(reached)
    await instances.raise_event(prefix + "1", "go", 1)
    await instances.resume(prefix + "1", None)
    await finish(instances, prefix + "1")


async def test_terminate(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("waits", None, prefix + "1"))
    await instances.terminate(prefix + "1", {"reason": "fraud"}, recursive=True)
    await finish(instances, prefix + "1", "TERMINATED")
    assert (await instances.show(prefix + "1")).output == {"reason": "fraud"}
    with pytest.raises(InstanceFinished):
        await instances.terminate(prefix + "1", None, recursive=True)


async def test_restart(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("greet", "again", prefix + "1"))
    await finish(instances, prefix + "1")
    assert await instances.restart(prefix + "1", new_id=False) == prefix + "1"
    await finish(instances, prefix + "1")
    other = await instances.restart(prefix + "1", new_id=True)
    assert other != prefix + "1"
    await finish(instances, other)
    assert (await instances.show(other)).input == "again"


async def test_rewind(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("breaks", None, prefix + "1"))
    await finish(instances, prefix + "1", "FAILED")
    failure = (await instances.show(prefix + "1")).failure
    assert failure is not None
    assert "the carrier does not answer" in failure["message"]
    repaired: Path = sys.modules["commanded_flows"].REPAIRED
    repaired.touch()
    try:
        await instances.rewind(prefix + "1", "the carrier is back")
        await finish(instances, prefix + "1")
    finally:
        repaired.unlink()
    with pytest.raises(EngineRejected, match="only a failed instance"):
        await instances.rewind(prefix + "1", None)


async def test_a_rewind_that_cannot_be_done_says_why(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("regrets", None, prefix + "1"))
    await finish(instances, prefix + "1", "FAILED")
    before = await instances.show(prefix + "1")
    with pytest.raises(
        EngineRejected, match=r"cannot be rewound: it made further decisions after the failure of a step.*restart it"
    ):
        await instances.rewind(prefix + "1", None)
    assert await instances.show(prefix + "1") == before


async def test_purge(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("greet", "gone", prefix + "1"))
    await instances.start(StartRequest("waits", None, prefix + "2"))
    await finish(instances, prefix + "1")
    assert await instances.purge(prefix + "1", recursive=True) == 1
    with pytest.raises(InstanceNotFound):
        await instances.show(prefix + "1")
    with pytest.raises(EngineRejected, match="terminate it first"):
        await instances.purge(prefix + "2", recursive=True)


async def test_purge_by_filter(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("waits", None, prefix + "1"))
    await instances.terminate(prefix + "1", None, recursive=True)
    await finish(instances, prefix + "1", "TERMINATED")
    long_ago = datetime.now(UTC) - timedelta(days=1)
    assert await instances.purge_by(InstanceFilter(("TERMINATED",), created_to=long_ago), recursive=False) == (0, True)
    count, complete = await instances.purge_by(InstanceFilter(("TERMINATED",), created_from=long_ago), recursive=False)
    assert count >= 1
    assert complete
    with pytest.raises(InstanceNotFound):
        await instances.show(prefix + "1")


async def test_list_filters(instances: InstanceOperations, prefix: str) -> None:
    for number in range(3):
        await instances.start(StartRequest("greet", "x", f"{prefix}{number}"))
        await finish(instances, f"{prefix}{number}")
    await instances.start(StartRequest("waits", None, prefix + "w"))

    async def ids(**filter_: object) -> list[str]:
        found = await instances.list(InstanceFilter(prefix=prefix, **filter_), payloads=False)  # type: ignore[arg-type]  # keywords of InstanceFilter
        return [one.instance_id.removeprefix(prefix) for one in found]

    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert await ids() == ["w", "2", "1", "0"]
    assert await ids(statuses=("COMPLETED",)) == ["2", "1", "0"]
    assert await ids(statuses=("COMPLETED", "RUNNING", "PENDING")) == ["w", "2", "1", "0"]
    assert await ids(created_from=now + hour) == []
    assert await ids(created_to=now - hour) == []
    assert await ids(created_from=now - hour, created_to=now + hour) == ["w", "2", "1", "0"]
    assert await ids(completed_from=now - hour) == ["2", "1", "0"]
    assert await ids(completed_to=now - hour) == []
    assert await ids(completed_from=now - hour, created_from=now + hour) == []
    assert await ids(completed_from=now - hour, statuses=("FAILED",)) == []


async def test_payloads_are_listed_when_asked_for(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("greet", "x", prefix + "1"))
    await finish(instances, prefix + "1")
    [one] = await instances.list(InstanceFilter(prefix=prefix), payloads=True)
    assert (one.input, one.output) == ("x", "hello x")
    [one] = await instances.list(InstanceFilter(prefix=prefix), payloads=False)
    assert (one.input, one.output) == (None, None)


async def test_unknown_instances(instances: InstanceOperations) -> None:
    with pytest.raises(InstanceNotFound):
        await instances.show("nobody")
    with pytest.raises(InstanceNotFound):
        await instances.wait("nobody", "completion", 5)
    with pytest.raises(InstanceNotFound):
        await instances.terminate("nobody", None, recursive=True)
    with pytest.raises(InstanceNotFound):
        await instances.raise_event("nobody", "go", None)
    with pytest.raises(InstanceNotFound):
        await instances.suspend("nobody", None)
    with pytest.raises(InstanceNotFound):
        await instances.resume("nobody", None)
    with pytest.raises(InstanceNotFound):
        await instances.restart("nobody", new_id=False)
    with pytest.raises(InstanceNotFound):
        await instances.rewind("nobody", None)
    with pytest.raises(InstanceNotFound):
        await instances.purge("nobody", recursive=True)


async def test_the_history_as_a_timeline(instances: InstanceOperations, prefix: str) -> None:
    await instances.start(StartRequest("family", None, prefix + "1"))
    await finish(instances, prefix + "1")
    events = await instances.history(prefix + "1")
    entries = timeline(events)
    texts = [entry.event.partition(" after ")[0] for entry in entries]
    assert texts[0] == "started family"
    assert texts[1].startswith("timer set for ")
    assert texts[2:5] == [
        "timer fired",
        f"orchestration greet called as {prefix}1-child",
        "orchestration greet done",
    ]
    assert texts[-1] == "completed"
    assert [entry.after for entry in entries] == sorted(entry.after for entry in entries)
    assert entries[0].after == 0
    assert datetime.now(UTC) - datetime.fromisoformat(entries[0].at) < timedelta(minutes=1)
    assert entries[-1].data == "hello child"
    raw = as_json(events)
    assert raw[0]["event"] in ("ExecutionStarted", "OrchestratorStarted")
    assert {"event_id", "timestamp"} <= raw[0].keys()


async def test_an_engine_that_is_not_running(tmp_path: Path) -> None:
    loaded = load([write_project(tmp_path / "idle")], environ={})
    with pytest.raises(EngineUnavailable, match="start `bridge serve`"):
        async with attached(loaded):
            pass


async def test_an_engine_that_is_not_configured(loaded: Loaded) -> None:
    with pytest.raises(LookupError, match="there is no engine 'eu' \\(known: default\\)"):
        async with attached(loaded, "eu"):
            pass
