"""Operations on entities, on the embedded engine over its socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from bridge.app.connection import attached
from bridge.app.operations.entities import EntityInfo, EntityOperations
from bridge.config.source import Loaded
from bridge.core.errors import InstanceNotFound, InvalidCommand
from tests.app.project import EngineThread
from tests.kit.waiting import eventually


@pytest.fixture
async def entities(loaded: Loaded, host: EngineThread) -> AsyncIterator[EntityOperations]:
    async with attached(loaded) as engine:
        yield EntityOperations(engine)


async def reaches(entities: EntityOperations, key: str, state: int) -> EntityInfo:
    async def found() -> EntityInfo | None:
        with contextlib.suppress(InstanceNotFound):
            one = await entities.show("Counter", key)
            return one if one.state == state else None
        return None

    one: EntityInfo = await eventually(found, f"Counter@{key} is {state}")
    return one


async def test_signal_show_and_list(entities: EntityOperations) -> None:
    key = uuid4().hex
    for amount in (2, 5):
        await entities.signal("counter", key, "add", amount, None, None)
    one = await reaches(entities, key, 7)
    assert (one.entity, one.key, one.locked_by) == ("counter", key, None)

    async def keys(name: str | None, prefix: str | None = None, **times: datetime) -> set[str]:
        found = await entities.list(name, prefix, times.get("since"), times.get("until"), state=False, transient=False)
        assert all(one.state is None for one in found)
        return {one.key for one in found}

    hour = timedelta(hours=1)
    assert key in await keys(None)
    assert key in await keys("Counter")
    assert await keys("counter", key[:12]) == {key}
    assert await keys("other") == set()
    assert key in await keys("counter", since=datetime.now(UTC) - hour)
    assert await keys("counter", until=datetime.now(UTC) - hour) == set()
    [found] = await entities.list("counter", key, None, None, state=True, transient=True)
    assert found.state == 7


async def test_a_signal_can_be_put_off(entities: EntityOperations) -> None:
    key = uuid4().hex
    await entities.signal("counter", key, "add", 1, datetime.now(UTC) + timedelta(seconds=0.2), None)
    await entities.signal("counter", key, "add", 1, None, 0.2)
    await reaches(entities, key, 2)


async def test_unknown_entities(entities: EntityOperations) -> None:
    with pytest.raises(InstanceNotFound, match="no entity counter@nobody exists"):
        await entities.show("counter", "nobody")


@pytest.mark.parametrize(("name", "key"), [("", "k"), ("counter", ""), ("a@b", "k"), ("counter", "a/b")])
async def test_impossible_ids(entities: EntityOperations, name: str, key: str) -> None:
    with pytest.raises(InvalidCommand):
        await entities.signal(name, key, "add", 1, None, None)


async def test_clean(entities: EntityOperations) -> None:
    result = await entities.clean(empty=True, locks=True)
    assert result.empty_entities_removed >= 0
    assert result.orphaned_locks_released >= 0
