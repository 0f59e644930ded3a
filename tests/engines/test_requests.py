"""Requests that the bridge builds mean the same as those of the SDK's client."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import pytest
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.errors import EngineRejected
from bridge.engines.client import EngineClient
from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.remote import requests
from tests.kit.examples import examples
from tests.sqlite_engine.test_worker import Shelf


class Recorder(stubs.TaskHubSidecarServiceServicer):
    """Servicer that keeps its requests."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def StartInstance(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        self.seen.append(request)
        return pb.CreateInstanceResponse(instanceId=request.instanceId)

    def RaiseEvent(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the protocol's name
        self.seen.append(request)
        return pb.RaiseEventResponse()


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Order:
    number: int
    lines: list[str]


class Own:
    def to_json(self) -> dict[str, int]:
        return {"own": 1}


VALUES = {
    "nothing": None,
    "null inside": {"a": None},
    "text": "é \u2028 \ud83d\ude00 'quotes\"",
    "a lone surrogate": {"text": "\ud800"},
    "numbers": [0, -1, 2**63 - 1, 2**64 - 1, 2**64, -(2**70), 0.1, 1e300, 5e-324, -0.0],
    "no number": [math.nan, math.inf, -math.inf],
    "empty": [{}, [], ""],
    "keys that are no texts": {2: "a", True: "b", None: "c"},
    "a dataclass": {"order": Order(1, ["a"])},
    "an object with a form of its own": [Own()],
    "subclasses": [OrderedDict(a=1), Colour.RED, Level.HIGH, (1, 2)],
}


def parsed(request: Any) -> Any:
    """Value in a request; the text itself for no value. NaN is equal to itself in a text only."""
    return json.dumps(json.loads(request.input.value), sort_keys=True) if request.HasField("input") else None


def without_input(request: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("input")
    return copy


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
async def test_values(value: Any) -> None:
    recorder = Recorder()
    sdk = AsyncTaskHubGrpcClient(channel=AioChannel(recorder), emit_trace_spans=False)
    client = EngineClient(sdk)
    for caller in (sdk, client):
        await caller.schedule_new_orchestration("order", input=value, instance_id="i")
        await caller.raise_orchestration_event("i", "paid", data=value)
    theirs, their_event, ours, our_event = recorder.seen
    assert parsed(ours) == parsed(theirs)
    assert parsed(our_event) == parsed(their_event)
    assert without_input(ours) == without_input(theirs)
    assert without_input(our_event) == without_input(their_event)


@settings(max_examples=examples(200))
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value(value: Any) -> None:
    text = requests.to_json(value)
    if value is None:
        assert text is None
    else:
        assert text is not None
        assert json.dumps(json.loads(text)) == json.dumps(value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"start_at": datetime(2030, 1, 2, 3, 4, 5, 678000, UTC)},
        {"start_at": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).replace(tzinfo=None)},
        {"version": "1.2", "tags": {"country": "nl"}},
        {"version": "", "tags": {}},
        {"reuse_id_policy": pb.OrchestrationIdReusePolicy(replaceableStatus=[pb.ORCHESTRATION_STATUS_FAILED])},
    ],
    ids=["plain", "a time", "a time without a zone", "version and tags", "empty ones", "a policy"],
)
async def test_settings_of_a_start(more: dict[str, Any]) -> None:
    recorder = Recorder()
    sdk = AsyncTaskHubGrpcClient(channel=AioChannel(recorder), emit_trace_spans=False)
    await sdk.schedule_new_orchestration("order", instance_id="i", **more)
    assert await EngineClient(sdk).schedule_new_orchestration("order", instance_id="i", **more) == "i"
    assert recorder.seen[1] == recorder.seen[0]


async def test_an_instance_without_an_id_gets_one() -> None:
    recorder = Recorder()
    client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(recorder)))
    ids = {await client.schedule_new_orchestration("order") for _ in range(2)}
    assert ids == {request.instanceId for request in recorder.seen}
    assert len(ids) == 2


async def test_a_value_without_a_form_is_refused() -> None:
    recorder = Recorder()
    client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(recorder)))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (object(), datetime.now(UTC), deep):
        with pytest.raises(EngineRejected, match="the SDK cannot make a request of it"):
            await client.schedule_new_orchestration("order", input=value, instance_id="i")
        with pytest.raises(EngineRejected, match="the SDK cannot make a request of it"):
            await client.raise_orchestration_event("i", "paid", data=value)
    assert recorder.seen == []
    while deep:
        deep = deep.pop()


async def test_a_client_with_a_payload_store_makes_its_requests_itself() -> None:
    recorder, shelf = Recorder(), Shelf()
    client = EngineClient(AsyncTaskHubGrpcClient(channel=AioChannel(recorder), payload_store=shelf))
    await client.schedule_new_orchestration("order", input="x" * 1000, instance_id="i")
    await client.raise_orchestration_event("i", "paid", data="y" * 1000)
    assert [request.input.value for request in recorder.seen] == list(shelf.kept) != []
