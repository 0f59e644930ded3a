"""One message, several commands: all are executed before it is settled, and none twice on a replay."""

from __future__ import annotations

from pathlib import Path

from bridge.core.commands import Command
from bridge.core.errors import EngineRejected, InstanceNotFound
from tests.kit.pipeline import message, running_pipeline

TWO = """
  - name: first
    from: orders
    match: {type: start}
    continue: true
    schedule: {orchestration: order, instance_id: "order-a-{{ payload.id }}"}
  - name: second
    from: orders
    match: {type: start}
    schedule: {orchestration: other, instance_id: "order-b-{{ payload.id }}"}
"""


async def test_a_dead_letter_lists_what_was_executed_and_a_trusted_replay_skips_it(tmp_path: Path) -> None:
    async def refuse_second(command: Command) -> None:
        if command.orchestration == "other":  # type: ignore[union-attr]  # schedules only
            raise EngineRejected("refused")

    async with running_pipeline(tmp_path, TWO) as it:
        it.faults.before = refuse_second
        await it.publish(message("start", 1, "k"))
        await it.source.start()
        await it.settled(1)
        dead_letter = (await it.read("orders.dlq", 1))[0]
        headers = dict(dead_letter.headers)
        assert headers["bridge.executed"] == b"first"
        assert headers["bridge.route"] == b"second"

    replayed = tmp_path / "replay"
    replayed.mkdir()
    async with running_pipeline(replayed, TWO, source="    trusted: replay") as it:
        await it.publish(dead_letter)
        await it.source.start()
        await it.settled(1)
        assert [command.instance_id for command in it.faults.taken] == ["order-b-1"]  # type: ignore[union-attr]  # schedules only

    untrusted = tmp_path / "untrusted"
    untrusted.mkdir()
    async with running_pipeline(untrusted, TWO) as it:
        await it.publish(dead_letter)
        await it.source.start()
        await it.settled(1)
        assert len(it.faults.taken) == 2, "headers of an untrusted source are ignored"


async def test_a_retry_goes_on_where_it_stopped(tmp_path: Path) -> None:
    failures = 3

    async def fail_second(command: Command) -> None:
        nonlocal failures
        if command.orchestration == "other" and failures:  # type: ignore[union-attr]  # schedules only
            failures -= 1
            raise InstanceNotFound("injected")

    async with running_pipeline(tmp_path, TWO, source="    retry: {initial: 1ms}") as it:
        it.faults.before = fail_second
        await it.publish(message("start", 1, "k"))
        await it.source.start()
        await it.settled(1)
        assert [command.orchestration for command in it.faults.tried] == ["order", *["other"] * 4]  # type: ignore[union-attr]  # schedules only
        command = "ScheduleOrchestration"
        assert it.source.ledger.commands == {("first", command): 1, ("second", command): 1}
        assert it.source.ledger.outcomes["executed"] == 1


async def test_repeats_count_as_duplicates_and_ignored_as_ignored(tmp_path: Path) -> None:
    routes = TWO + "  - {name: nothing, from: orders, match: {type: noise}, ignore: {reason: noise}}\n"
    async with running_pipeline(tmp_path, routes, source="""    identity: "{{ payload.sent }}\"\n""") as it:
        await it.publish(
            message("start", 1, "k", sent="a"),
            message("start", 1, "k", sent="a"),  # sent again
            message("start", 1, "k", sent="b"),  # another message about the same instance, which the rule ignores
            message("noise", 2, sent="c"),
        )
        await it.source.start()
        await it.settled(4)
        assert it.source.ledger.outcomes["executed"] == 1
        assert it.source.ledger.outcomes["duplicate"] == 1
        assert it.source.ledger.outcomes["ignored"] == 2
