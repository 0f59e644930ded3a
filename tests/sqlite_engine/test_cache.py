"""Engine memory is limited in bytes, and evicted state can be loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.entity import OVERHEAD, EntityCache, StoredEntity
from bridge.sqlite_engine.model.values import text
from bridge.sqlite_engine.options import DatabaseOptions
from tests.kit.protocol_client import ProtocolClient, call, raise_event, signal, start, state
from tests.sqlite_engine.conftest import Restartable

LIMIT = 50_000
PAYLOAD = "x" * 10_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Database]:
    found = Restartable(tmp_path / "small.db", DatabaseOptions(max_cached_bytes=LIMIT))
    yield found.now
    found.now.stop()


def test_entities_with_large_states_are_let_go_and_found_again(small: Database) -> None:
    remote = ProtocolClient(small)
    for number in range(20):
        signal(small, f"@store@{number}", "put")
        item = remote.take()
        remote.batch(item, None, new_state=f"{number}{PAYLOAD}")
        assert small.hub.entities.cached_bytes <= LIMIT + 2 * len(PAYLOAD)
    assert remote.nothing()
    assert 0 < small.hub.entities.cached_bytes <= LIMIT
    for number in range(20):
        found = call(small, "GetEntity", pb.GetEntityRequest(instanceId=f"@store@{number}", includeState=True))
        assert f'"{number}{PAYLOAD}"' == found.entity.serializedState.value
    assert small.hub.entities.cached_bytes <= LIMIT
    remote.leave()


def test_entities_with_long_queues_are_let_go_and_run_all_the_same(small: Database) -> None:
    for number in range(20):
        signal(small, f"@store@{number}", "put", PAYLOAD)
    assert small.hub.entities.cached_bytes <= LIMIT
    remote = ProtocolClient(small)
    names = set()
    for _ in range(20):
        item = remote.take()
        names.add(item.entityRequestV2.instanceId)
        remote.batch(item, None)
    assert len(names) == 20
    remote.leave()


def test_instances_with_large_inputs_and_inboxes_are_let_go(small: Database) -> None:
    for number in range(20):
        start(small, "nobody's", f"i-{number}", PAYLOAD)
    assert small.hub.instances.bytes <= LIMIT
    for number in range(20):
        raise_event(small, f"i-{number}", "e", PAYLOAD)
    assert small.hub.instances.bytes <= LIMIT
    assert state(small, "i-0").input.value == f'"{PAYLOAD}"'
    remote = ProtocolClient(small)
    for _ in range(20):
        item = remote.take()
        assert len(item.orchestratorRequest.newEvents) == 3
        remote.turn(item)
    remote.leave()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["get", "append", "pop", "state", "drop", "trim"]))))
def test_bytes_are_those_of_the_entities_in_the_cache(steps: list[tuple[str, str]]) -> None:
    cache, known = EntityCache(2, 5_000), {name: StoredEntity(f"@e@{name}", 0) for name in "abc"}
    for number, (name, step) in enumerate(steps):
        entity = cache.get(f"@e@{name}")
        if step == "trim":
            cache.trim()
        elif entity is None:
            cache.add(known[name])
        elif step == "append":
            entity.append(number, events.signal(0, entity.id, "put" * (number % 7), None, "r"))
        elif step == "pop" and entity.queue:
            entity.pop()
        elif step == "state":
            entity.state = "x" * number * 100
        elif step == "drop":
            cache.remove(entity)
    cache.trim()
    assert cache.bytes == sum(entity.size for entity in cache)
    assert len(cache) <= 2
    assert cache.bytes <= 5_000 or len(cache) == 0
    for entity in known.values():
        assert entity.queue_bytes == sum(event.ByteSize() for _, event in entity.queue)
        entity.remove({seq for seq, _ in entity.queue})
        assert entity.size - OVERHEAD == (0 if entity.state is None else entity.state.__sizeof__())


def test_bytes_of_instances_are_those_of_their_histories_inputs_and_unread_events(small: Database) -> None:
    def measured() -> int:
        return sum(each.history_bytes + each.start.ByteSize() + each.unread_bytes for each in small.hub.instances)

    start(small, "orchestrator", "i", "first")
    raise_event(small, "i", "e", "x")
    remote = ProtocolClient(small)
    for number in range(3):
        item = remote.take()
        anew = pb.OrchestratorAction(
            completeOrchestration=pb.CompleteOrchestrationAction(
                orchestrationStatus=pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, result=text("again" * number)
            )
        )
        remote.turn(item, *([anew] if number else []))
        state(small, "i")
        if not number:
            raise_event(small, "i", "e", "x" * 1000)
        assert small.hub.instances.bytes == measured() > 0
    remote.leave()
