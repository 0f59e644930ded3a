"""Rules of the program around the engine, and the facts of refusals that follow from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.answers import reply_event
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.core.system_names import target_id
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.bounds import SCHEDULERS, BeyondBound, Limits, is_bound_refusal
from bridge.sqlite_engine.model.reply import (
    ANSWERED,
    Conflict,
    Rejection,
    already_exists,
    is_unread_full,
    read_conflict,
    unread_full,
)
from tests.kit.protocol_client import ProtocolClient, complete, raise_event, signal, start
from tests.sqlite_engine.test_entity import entities

ANSWER = reply_event("0f8fad5b-d9cb-469f-a165-70867728950e@order-1")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    """Engine without rules."""
    database = Database(tmp_path / "plain.db")
    database.start()
    yield database
    database.stop()


def message(message_id: str) -> object:
    return json.loads(json.dumps(wrap_payload("data", MessageOrigin(message_id, "route"))))


def refused_start(database: Database, message_id: str) -> Conflict | None:
    with pytest.raises(Rejection) as caught:
        start(database, "work", "order-1", message(message_id))
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    return read_conflict(caught.value.details)


def test_a_refused_start_reports_the_status_and_a_repetition(database: Database) -> None:
    start(database, "work", "order-1", message("m-1"))
    assert refused_start(database, "m-1") == Conflict("PENDING", is_repeat=True)
    assert refused_start(database, "m-2") == Conflict("PENDING", is_repeat=False)
    remote = ProtocolClient(database)
    remote.turn(remote.take(), complete(1))
    assert refused_start(database, "m-1") == Conflict("COMPLETED", is_repeat=True)
    start(database, "work", "order-1", message("m-2"))


def test_an_answer_is_accepted_once(database: Database) -> None:
    start(database, "work", "order-1")
    raise_event(database, "order-1", ANSWER, message("m-1"))
    for message_id, is_repeat in (("m-1", True), ("m-2", False)):
        with pytest.raises(Rejection) as caught:
            raise_event(database, "order-1", ANSWER, message(message_id))
        assert read_conflict(caught.value.details) == Conflict(ANSWERED, is_repeat)


def test_an_engine_without_rules_repeats_and_keeps_all(plain: Database) -> None:
    start(plain, "work", "order-1", message("m-1"))
    assert refused_start(plain, "m-1") == Conflict("PENDING", is_repeat=False)
    raise_event(plain, "order-1", ANSWER, message("m-1"))
    raise_event(plain, "order-1", ANSWER, message("m-1"))
    remote = ProtocolClient(plain)
    remote.turn(remote.take(), complete(1))
    companion = target_id("order-1")
    signal(plain, companion, "park")
    remote.batch(remote.take(), None)
    assert [each.instanceId for each in entities(plain, includeTransient=True)] == [companion]
    start(plain, "work", "order-1", message("m-1"))
    assert remote.take().WhichOneof("request") == "orchestratorRequest"
    assert remote.nothing()


@given(st.text(), st.sampled_from(("RUNNING", "COMPLETED", ANSWERED)), st.booleans())
def test_facts_of_a_conflict_are_read_from_its_text(text: str, status: str, is_repeat: bool) -> None:
    conflict = Conflict(status, is_repeat)
    assert read_conflict(already_exists(text, conflict).details) == conflict


def test_other_texts_have_no_facts() -> None:
    assert read_conflict("Orchestration instance 'a [RUNNING, this message]' already exists") is None
    assert not is_unread_full("The instance has 1 unread events of 2 bytes; no further event is taken: secret")


@given(st.integers(min_value=0), st.integers(min_value=0))
def test_a_refusal_of_an_unread_event_is_recognised(events: int, size: int) -> None:
    assert is_unread_full(unread_full(events, size).details)


@pytest.mark.parametrize("limits", [Limits(id_characters=3, payload_bytes=3, event_bytes=3), SCHEDULERS])
def test_a_refusal_beyond_a_limit_is_recognised(limits: Limits) -> None:
    large = "x" * 2_000_000
    checks = (
        lambda: limits.check_id("an instance id", large),
        lambda: limits.check_payload("an orchestration's input", large),
        lambda: limits.check_event(large),
        lambda: limits.check_event(large, "a reason"),
    )
    for check in checks:
        with pytest.raises(BeyondBound) as caught:
            check()  # type: ignore[no-untyped-call]  # it comes without types
        assert is_bound_refusal(f"The call {caught.value}")
