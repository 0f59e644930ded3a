"""A delivery keeps the rule set of its admission for all attempts; the next message of its key gets the new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from pathlib import Path

from bridge.app.composition import build_rule_set, load_config
from bridge.core.commands import Command, ScheduleOrchestration
from bridge.core.errors import InstanceNotFound
from bridge.pipeline.rule_set import RuleSet
from tests.kit.pipeline import CONFIG, START, PipelineFixture, message, running_pipeline
from tests.kit.waiting import TIMEOUT

_OTHER = START.replace('"order-{{', '"new-{{')
_LARGE = "x" * 20_000


def _compiled(it: PipelineFixture, directory: Path, routes: str, source: str = "") -> RuleSet:
    path = directory / "changed.yaml"
    path.write_text(CONFIG.format(source=source, routes=routes, codec="json"))
    return build_rule_set(load_config([path]), "orders", it.rules.current.engines)


def _ids(it: PipelineFixture) -> list[str]:
    return [command.instance_id for command in it.faults.taken if isinstance(command, ScheduleOrchestration)]


def _failing_until(replaced: asyncio.Event, failed: asyncio.Event) -> Callable[[Command], object]:
    async def before(command: Command) -> None:
        if not replaced.is_set():
            failed.set()
            raise InstanceNotFound("not yet")

    return before


async def test_retries_keep_the_rule_set_of_the_admission(tmp_path: Path) -> None:
    """Also where the message is decoded again for each attempt, as a large one is."""
    async with running_pipeline(tmp_path, source="    retry: {initial: 1ms, max_delay: 1ms}") as it:
        replaced, failed = asyncio.Event(), asyncio.Event()
        it.faults.before = _failing_until(replaced, failed)  # type: ignore[assignment]  # awaited
        await it.publish(message("start", 1, "a"), message("start", 2, "a"), message("start", 3, "b", text=_LARGE))
        await it.source.start()
        await asyncio.wait_for(failed.wait(), TIMEOUT)
        await it.until(lambda: it.source.ledger.received == 3, "admitted")
        it.rules.replace(_compiled(it, tmp_path, _OTHER))
        await it.publish(message("start", 4, "a"), message("start", 5, "c"))
        replaced.set()
        await it.settled(5)
        assert [each for each in _ids(it) if each[-1] in "124"] == ["order-1", "order-2", "new-4"]
        assert sorted(_ids(it)) == ["new-4", "new-5", "order-1", "order-2", "order-3"]


async def test_dead_letters_name_the_version_of_their_rule_set(tmp_path: Path) -> None:
    broken = START.replace("payload.id", "payload.missing")
    async with running_pipeline(tmp_path) as it:
        await it.source.start()
        it.rules.replace(changed := _compiled(it, tmp_path, broken))
        await it.publish(message("start", 1, "a"))
        [dead_letter] = await it.read("orders.dlq", 1)
        assert dict(dead_letter.headers)["bridge.config"] == changed.version.encode()


async def test_a_chooser_gives_each_key_its_rule_set(tmp_path: Path) -> None:
    """The other rule set decodes its messages itself, because its source has other attributes."""
    async with running_pipeline(tmp_path) as it:
        subject = CONFIG.replace("""{{type: "headers['type']"}}""", """{{subject: "'s'"}}""")
        path = tmp_path / "subject.yaml"
        path.write_text(subject.format(source="", routes=_OTHER.replace("type: start", "subject: s"), codec="json"))
        changed = build_rule_set(load_config([path]), "orders", it.rules.current.engines)
        chosen: list[Hashable | None] = []

        def choose(key: Hashable | None) -> RuleSet:
            chosen.append(key)
            return changed if key == b"b" else it.rules.current

        it.rules.choose = choose  # type: ignore[method-assign]  # a canary's choice
        await it.publish(message("start", 1, "a"), message("start", 2, "b"), message("start", 3, "b", text=_LARGE))
        await it.source.start()
        await it.settled(3)
        assert sorted(_ids(it)) == ["new-2", "new-3", "order-1"]
        assert sorted(chosen) == [b"a", b"b", b"b"]  # type: ignore[type-var]  # bytes here
