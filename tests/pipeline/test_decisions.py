"""Listeners of decisions see each settled delivery once, with its decision, its end and a whole envelope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge.core.commands import ScheduleOrchestration
from bridge.core.errors import EngineUnavailable
from bridge.core.message import Message
from bridge.core.states import Outcome
from bridge.pipeline.decisions import SettledDelivery
from tests.kit.pipeline import START, held_lanes, message, running_pipeline
from tests.pipeline.test_recovery import Flaky

RULES = (
    START
    + """
  - name: quiet
    from: orders
    match: {type: quiet}
    ignore: {}
  - name: event
    from: orders
    match: {type: event}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: dead_letter}
  - name: broken
    from: orders
    match: {type: broken}
    when: payload.absent.member == 1
    ignore: {}
"""
)


async def test_each_settled_delivery_is_offered_once_with_its_decision(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, RULES) as it:
        seen: list[SettledDelivery] = []
        it.source.decisions.add(seen.append)
        await it.publish(message("start", 1, "k"), message("start", 1, "k"), message("quiet", 2, "k"))
        await it.publish(message("event", 3, "k"), message("broken", 4, "k"), message("other", 5, "k"))
        await it.publish(Message(b"{", b"k", (("type", b"start"),)))
        await it.source.start()
        await it.settled(7)
        executed, repeated, quiet, missing, broken, unmatched, unreadable = seen
        assert [each.delivery.position.offset for each in seen] == sorted(
            each.delivery.position.offset for each in seen
        )
        assert executed.outcome is Outcome.EXECUTED
        assert executed.decision is not None
        assert isinstance(executed.decision.steps[0].command, ScheduleOrchestration)
        assert (executed.source, executed.routes, executed.reason, executed.route) == ("orders", ("start",), None, None)
        assert executed.envelope is not None
        assert executed.envelope.data == {"id": 1}
        assert executed.rules == it.source.rules.current.version
        assert executed.duration > 0
        assert (executed.attempts, executed.is_stored) == (1, False)
        assert (repeated.outcome, repeated.reason) == (Outcome.IGNORED, None), "another message started this instance"
        assert (quiet.outcome, quiet.routes) == (Outcome.IGNORED, ("quiet",))
        assert (missing.outcome, missing.reason, missing.route) == (
            Outcome.DEAD_LETTERED,
            "instance_not_found",
            "event",
        )
        assert missing.decision is not None
        assert (broken.reason, broken.route) == ("expression_error", "broken"), broken
        assert broken.expression == "route broken, when"
        assert (broken.decision, broken.routes) == (None, ())
        assert (unmatched.reason, unmatched.route) == ("no_route", None)
        assert (unreadable.reason, unreadable.envelope) == ("decode_error", None)


async def test_a_retried_delivery_is_offered_after_its_last_attempt(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source="    retry: {in_memory: 1m}") as it:
        seen: list[SettledDelivery] = []
        it.source.decisions.add(seen.append)
        failures = [EngineUnavailable("away")]

        async def fail_once(command: object) -> None:
            if failures:
                raise failures.pop()

        it.faults.before = fail_once
        await it.publish(message("start", 1))
        await it.source.start()
        await it.settled(1)
        assert [each.outcome for each in seen] == [Outcome.EXECUTED]


async def test_an_envelope_that_lost_its_data_during_an_outage_of_the_broker_is_not_offered(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source="    retry: {initial: 10ms}", broker=Flaky) as it:
        flaky: Any = it.broker
        flaky.refuses = True
        seen: list[SettledDelivery] = []
        it.source.decisions.add(seen.append)
        await it.publish(message("unknown", 1, fill="z" * 100 * 1024))
        await it.source.start()
        await it.until(lambda: held_lanes(it.source.lanes), "the dead letter was refused")
        flaky.refuses = False
        await it.settled(1)
        assert [(each.outcome, each.reason, each.envelope) for each in seen] == [("dead_lettered", "no_route", None)]


async def test_a_listener_that_fails_is_removed_and_disturbs_nothing(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path) as it:
        seen: list[SettledDelivery] = []
        calls = 0

        def fail(settled: SettledDelivery) -> None:
            nonlocal calls
            calls += 1
            raise RuntimeError("bug")

        it.source.decisions.add(fail)
        remove = it.source.decisions.add(seen.append)
        await it.publish(*(message("start", number) for number in range(5)))
        await it.source.start()
        await it.settled(5)
        assert (calls, len(seen)) == (1, 5)
        assert it.source.ledger.outcomes["executed"] == 5
        remove()
        assert not it.source.decisions
        await it.publish(message("start", 6))
        await it.settled(6)
        assert len(seen) == 5
