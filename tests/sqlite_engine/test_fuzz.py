"""The engine answers or refuses any request, and continues."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import UNARY
from tests.kit.examples import examples
from tests.kit.protocol_client import ProtocolClient, call, complete, start, state

SERVICE = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"]
REQUESTS = {
    method.name: getattr(pb, method.input_type.name)
    for method in SERVICE.methods
    if hasattr(pb, method.input_type.name)
    and (method.name in UNARY or method.name == "StreamInstanceHistory")
    and not method.name.startswith("WaitFor")
}
TEXT = st.one_of(
    st.sampled_from(
        ["", "a", "b", "@c@x", "@", "@@", "work", "s-0-1", "s-0-2", "s-0-3", "s-1-1", "é\u202e", "a\0b", "x" * 2000]
    ),
    st.text(max_size=20),
)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    9: TEXT,
    8: st.booleans(),
    5: st.integers(-(2**31), 2**31 - 1),
    3: st.integers(-(2**40), 2**40),
    1: st.floats(allow_nan=False),
    14: st.integers(0, 7),
}


def messages(descriptor: Any, depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """Generate the fields of a message, nested, most of them missing."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    taken: set[str] = set()
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.containing_oneof.name in taken and depth < 3:
            continue
        if field.message_type is not None:
            if (
                depth == 0
                or field.message_type.GetOptions().map_entry
                or field.message_type.name in ("Value", "Struct")
            ):
                continue
            if field.message_type.name in ("Timestamp", "Duration"):
                value: st.SearchStrategy[Any] = st.fixed_dictionaries(
                    {"seconds": st.integers(-(2**63), 2**63 - 1), "nanos": st.integers(-(2**31), 2**31 - 1)}
                )
            else:
                value = messages(field.message_type, depth - 1)
        elif field.type in SCALARS:
            value = SCALARS[field.type]
        else:
            continue
        fields[field.name] = st.lists(value, max_size=3) if repeated(field) else value
        if field.containing_oneof is not None:
            taken.add(field.containing_oneof.name)
    return st.fixed_dictionaries({}, optional=fields)


def repeated(field: Any) -> bool:
    return bool(field.is_repeated)


NUMBERS = itertools.count()

CALLS = st.lists(
    st.sampled_from(sorted(REQUESTS)).flatmap(
        lambda name: st.tuples(st.just(name), messages(REQUESTS[name].DESCRIPTOR))
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, ProtocolClient]]:
    path: Path = tmp_path_factory.mktemp("fuzz") / "hub.db"
    database = Database(path, DatabaseOptions(max_request=1_000_000))
    database.start()
    database.hub.dispatcher.start_id = "s"  # so that some made-up tokens are those of leases
    yield database, ProtocolClient(database, maxConcurrentOrchestrationWorkItems=5, maxConcurrentActivityWorkItems=5)
    database.stop()


def try_calls(database: Database, calls: list[tuple[str, Any]]) -> None:
    for name, fields in calls:
        try:
            request = REQUESTS[name](**fields)
        except (ValueError, TypeError):
            continue
        try:
            call(database, name, request)
        except Rejection as rejection:
            # A refusal quotes ids and names of the request, which may have these words, too
            if any(words in rejection.details and words not in repr(fields) for words in ("see its log", "cannot be")):
                raise
    assert database.writer.broken is None
    call(database, "Hello", None)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=CALLS)
def test_any_request_is_answered_or_refused(
    fuzzed: tuple[Database, ProtocolClient], calls: list[tuple[str, Any]]
) -> None:
    try_calls(fuzzed[0], calls)


@pytest.mark.prove
@pytest.mark.timeout(1800)
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=CALLS)
def test_any_request_for_long(fuzzed: tuple[Database, ProtocolClient], calls: list[tuple[str, Any]]) -> None:
    try_calls(fuzzed[0], calls)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=messages(pb.OrchestratorResponse.DESCRIPTOR))
def test_any_answer_to_a_turn_ends_it_or_fails_its_instance(fuzzed_turns: Database, fields: dict[str, Any]) -> None:
    database = fuzzed_turns
    remote = ProtocolClient(database, maxConcurrentOrchestrationWorkItems=1)
    # Not an earlier instance: its replacement would withdraw a turn that the worker already has.
    instance_id = f"turn-{next(NUMBERS)}"
    start(database, "work", instance_id)
    item = remote.take()
    while item.orchestratorRequest.instanceId != instance_id:
        remote.turn(item, complete(1))
        item = remote.take()
    fields |= {"completionToken": item.completionToken, "instanceId": instance_id}
    call(database, "CompleteOrchestratorTask", pb.OrchestratorResponse(**fields))
    assert state(database, instance_id).name
    assert database.writer.broken is None
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id))
    remote.leave()


@pytest.fixture(scope="module")
def fuzzed_turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("fuzz") / "hub.db")
    database.start()
    yield database
    database.stop()


def test_an_oversized_request_is_refused(fuzzed: tuple[Database, ProtocolClient]) -> None:
    with pytest.raises(Rejection, match="at most 1000000"):
        start(fuzzed[0], "work", "large", "x" * 1_000_001)
