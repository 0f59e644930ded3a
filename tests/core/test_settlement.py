"""Decision table of settlement: every error class, every command, every policy."""

from __future__ import annotations

import inspect
import math

import pytest
from durabletask.task import FailureDetails
from hypothesis import given
from hypothesis import strategies as st

from bridge.core import commands, errors
from bridge.core.commands import OnExisting, OnFinished, OnMissing
from bridge.core.errors import MessageError
from bridge.core.settlement import (
    DETAIL_LIMIT,
    Complete,
    Hold,
    Keep,
    Release,
    Retry,
    RetryPolicy,
    Settlement,
    Wait,
    WriteDeadLetter,
    decide,
    decide_for_source,
    decide_unstored,
    detail_of,
)
from bridge.core.states import Outcome

POLICY = RetryPolicy(initial=1.0, multiplier=2.0, max_delay=8.0, in_memory=30.0, bug_attempts=3)
START = commands.ScheduleOrchestration("o", "i")
FOR_EXISTING = [
    commands.RaiseEvent("i", "e"),
    commands.Cancel("i"),
    commands.Terminate("i"),
    commands.Suspend("i"),
    commands.Resume("i"),
]
ALL = [*FOR_EXISTING, START, commands.StartOrRaise("o", "i", "e"), commands.SignalEntity("e", "k", "op"), None]


def every_error() -> list[type[errors.BridgeError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.BridgeError)]
    assert len(found) > 20
    return found


def made(kind: type[errors.BridgeError]) -> errors.BridgeError:
    return kind([]) if kind is errors.ConfigError else kind("what happened")


@pytest.mark.parametrize("kind", every_error())
def test_no_outage_is_ever_dead_lettered_or_completed(kind: type[errors.BridgeError]) -> None:
    outages = (
        errors.EngineOutage
        | errors.BrokerUnavailable
        | errors.RegistryUnavailable
        | errors.ClaimStoreUnavailable
        | errors.ClockSkew
    )
    outage = issubclass(kind, outages)
    for command in ALL:
        settlement = decide(made(kind), command, 10_000, 1e9, POLICY)  # type: ignore[arg-type]
        assert isinstance(settlement, Hold) is outage, command


@pytest.mark.parametrize("kind", [errors.DecodeError, errors.SchemaError, errors.NoRoute, errors.EngineRejected])
def test_what_can_never_succeed_is_dead_lettered_at_once(kind: type[errors.BridgeError]) -> None:
    for command in ALL:
        assert decide(made(kind), command, 1, 0.0, POLICY) == WriteDeadLetter(kind.reason, "what happened"), command  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [errors.LockLost, errors.PartitionRevoked])
def test_a_lost_right_is_released(kind: type[errors.BridgeError]) -> None:
    assert decide(made(kind), START, 1, 0.0, POLICY) == Release(kind.reason)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnExisting.IGNORE, Complete(Outcome.IGNORED)),
        (OnExisting.RESTART, Complete(Outcome.IGNORED)),
        (OnExisting.DEAD_LETTER, WriteDeadLetter("instance_already_exists", "what happened")),
    ],
)
def test_on_existing(policy: OnExisting, expected: object) -> None:
    command = commands.ScheduleOrchestration("o", "i", on_existing=policy)
    assert decide(made(errors.InstanceAlreadyExists), command, 1, 0.0, POLICY) == expected


@pytest.mark.parametrize("command", ALL)
def test_what_the_engine_had_before_is_a_duplicate(command: object) -> None:
    assert decide(made(errors.AlreadyTaken), command, 1, 0.0, POLICY) == Complete(Outcome.DUPLICATE)  # type: ignore[arg-type]


def test_on_finished_of_an_event_in_place_of_a_start() -> None:
    finished = made(errors.InstanceFinished)
    ignore = commands.ScheduleOrchestration("o", "i", on_existing=OnExisting.RAISE, on_finished=OnFinished.IGNORE)
    assert decide(finished, ignore, 1, 0.0, POLICY) == Complete(Outcome.IGNORED)
    assert decide(finished, START, 1, 0.0, POLICY) == WriteDeadLetter("instance_finished", "what happened")


@pytest.mark.parametrize("kind", [commands.RaiseEvent, commands.Cancel, commands.Terminate])
def test_on_missing_and_on_finished(kind: type) -> None:
    extra = {"name": "e"} if kind is commands.RaiseEvent else {}
    missing, finished = made(errors.InstanceNotFound), made(errors.InstanceFinished)
    ignore = kind(instance_id="i", on_missing=OnMissing.IGNORE, on_finished=OnFinished.IGNORE, **extra)
    strict = kind(instance_id="i", on_missing=OnMissing.DEAD_LETTER, on_finished=OnFinished.DEAD_LETTER, **extra)
    retry = kind(instance_id="i", on_missing=OnMissing.RETRY, **extra)
    assert decide(missing, ignore, 1, 0.0, POLICY) == Complete(Outcome.IGNORED)
    assert decide(finished, ignore, 1, 0.0, POLICY) == Complete(Outcome.IGNORED)
    assert decide(missing, strict, 1, 0.0, POLICY) == WriteDeadLetter("instance_not_found", "what happened")
    assert decide(finished, strict, 1, 0.0, POLICY) == WriteDeadLetter("instance_finished", "what happened")
    assert decide(missing, retry, 1, 0.0, POLICY) == Retry(1.0, "instance_not_found")
    assert decide(missing, retry, 5, 29.9, POLICY) == WriteDeadLetter("instance_not_found", "what happened")


def test_a_bug_is_tried_a_bounded_number_of_times_and_its_text_is_not_repeated() -> None:
    bug = KeyError("a payload value that must not leak")
    assert isinstance(decide(bug, START, 1, 0.0, POLICY), Retry)
    assert isinstance(decide(bug, START, 2, 0.0, POLICY), Retry)
    end = decide(bug, START, 3, 0.0, POLICY)
    assert isinstance(end, WriteDeadLetter)
    assert end.reason == "bug"
    assert "leak" not in end.detail


@given(st.integers(1, 10_000))
def test_delays_grow_and_stay_bounded(attempt: int) -> None:
    assert POLICY.initial <= POLICY.delay(attempt) <= POLICY.max_delay
    assert POLICY.delay(attempt) <= POLICY.delay(attempt + 1)


@given(st.integers(1, 50), st.floats(0, 100))
def test_retries_never_outlast_their_time(attempt: int, elapsed: float) -> None:
    settlement = decide(made(errors.InstanceNotFound), commands.RaiseEvent("i", "e"), attempt, elapsed, POLICY)
    if isinstance(settlement, Retry):
        assert elapsed + settlement.delay <= POLICY.in_memory


def test_details_are_cut() -> None:
    assert detail_of(errors.DecodeError("x" * 5000)) == "x" * (DETAIL_LIMIT - 3) + "…"


@given(st.text(max_size=3000))
def test_details_are_at_most_a_kilobyte_of_text(text: str) -> None:
    assert len(detail_of(errors.DecodeError(text)).encode("utf-8", "replace")) <= DETAIL_LIMIT


def test_details_are_cut_between_characters() -> None:
    assert detail_of(errors.DecodeError("é" * 5000)) == "é" * 510 + "…"


@pytest.mark.parametrize("error", [errors.InstanceNotFound("gone"), errors.EarlierMessagesWait("others wait")])
@pytest.mark.parametrize("kind", [type(command) for command in FOR_EXISTING])
def test_what_may_wait_is_parked(error: errors.EngineError, kind: type) -> None:
    arguments = ("i", "e") if kind is commands.RaiseEvent else ("i",)
    end = decide(error, kind(*arguments, on_missing=commands.WaitFor(60.0)), 50, 1e6, POLICY)
    assert end == Keep(Wait.INSTANCE, 60.0, error.reason, str(error))


@pytest.mark.parametrize("command", [*FOR_EXISTING, commands.StartOrRaise("o", "i", "e")])
def test_what_may_not_wait_is_tried_again_while_others_do(command: commands.Command) -> None:
    error = errors.EarlierMessagesWait("others wait")
    assert decide(error, command, 1, 0.0, POLICY) == Retry(1.0, "instance_parked", failed=False)
    assert decide(error, command, 99, 1e6, POLICY) == Retry(POLICY.max_delay, "instance_parked", failed=False)


ENDS: list[Settlement] = [
    Complete(Outcome.EXECUTED), Hold("r", "d"), Retry(5.0, "r"), Retry(600.0, "r"), WriteDeadLetter("r", "d"),
    Release("r"), Keep(Wait.INSTANCE, 1.0, "r", "d"), Retry(600.0, "r", failed=False),
]  # fmt: skip


@pytest.mark.parametrize("quarantine", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("held", "max_hold"), [(0.0, math.inf), (0.0, 300.0), (299.0, 300.0)])
@pytest.mark.parametrize("end", ENDS)
def test_what_is_kept_outside_the_broker(
    end: Settlement, held: float, max_hold: float, keeps: bool, quarantine: bool
) -> None:
    found = decide_for_source(end, keeps=keeps, quarantine=quarantine, elapsed=held, max_hold=max_hold)
    if isinstance(end, WriteDeadLetter) and quarantine and keeps:
        assert found == Keep(Wait.PERSON, None, "r", "d")
    elif isinstance(end, Retry) and end.failed and held + end.delay > max_hold:
        if keeps:
            assert found == Keep(Wait.TIME, end.delay, "r", f"tried again after {end.delay:.0f} s")
        else:
            assert found == WriteDeadLetter(
                "r", "the retries exceeded the longest time that the broker lets a message be held"
            )
    else:
        assert found is end


@pytest.mark.parametrize("engine", ["main", None])
@pytest.mark.parametrize("kind", [kind for kind in every_error() if issubclass(kind, errors.EngineError)])
def test_a_message_that_its_engine_does_not_store_is_only_lost_if_refused(
    kind: type[errors.EngineError], engine: str | None
) -> None:
    found = decide_unstored(made(kind), engine, POLICY)  # type: ignore[arg-type]  # an error of the engine, by its class
    if issubclass(kind, errors.EngineOutage) and engine is not None:
        assert found == Hold(kind.reason, "what happened", "main")
    elif issubclass(kind, errors.EngineRejected):
        assert found == WriteDeadLetter(kind.reason, "what happened")
    else:
        assert found == Retry(POLICY.max_delay, kind.reason)


def test_a_failed_expression_of_an_earlier_version_is_still_a_message_error() -> None:
    stored = FailureDetails("no key", "bridge.routing.expression._Placed", None)
    assert stored.is_caused_by(MessageError)
