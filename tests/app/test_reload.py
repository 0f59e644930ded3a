"""Reload of a daemon's configuration: all or nothing, and only what has changed pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.app.serve.reload.reloader import Files, Reloader
from bridge.core.errors import BrokerUnavailable
from tests.kit.daemon import DaemonFixture, running
from tests.kit.waiting import TIMEOUT

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, data):
    return data


def waits(ctx: task.OrchestrationContext, data):
    return (yield ctx.wait_for_external_event("go"))
"""
SOURCES = """
sources:
  orders: {broker: local, topics: [orders], group: orders, codec: json, no_match: dead_letter}
  other: {broker: local, topics: [other], group: other, codec: json, no_match: ignore}
"""
CONFIG = f"""{SOURCES}
vars: {{suffix: a}}
routes:
  - name: start
    from: orders
    when: payload.kind == "start"
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
"""


class Reloading:
    """Daemon with its reloader. `change` replaces text in its configuration file."""

    def __init__(self, it: DaemonFixture, path: Path) -> None:
        self.it = it
        self.daemon = it.daemon
        self.path = path
        self.reloader = Reloader(it.daemon, Files([path]))

    def change(self, *pairs: tuple[str, str]) -> None:
        text = self.path.read_text()
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        self.path.write_text(text)

    async def reload(self, *pairs: tuple[str, str]) -> dict[str, Any]:
        self.change(*pairs)
        return await self.reloader.reload("test")

    async def ids(self) -> list[str]:
        found = await self.daemon.engines["default"].client.get_all_orchestration_states(what="test")
        return sorted(each.instance_id for each in found)


@asynccontextmanager
async def reloading(directory: Path, config: str = CONFIG, **more: Any) -> AsyncIterator[Reloading]:
    async with running(directory, config, FLOWS, **more) as it:
        found = Reloading(it, directory / "bridge.yaml")
        try:
            yield found
        finally:
            await found.reloader.stop(10)


def changes(answer: dict[str, Any]) -> dict[str, str]:
    return {each["source"]: each["change"] for each in answer["sources"]}


async def test_rules_change_without_a_pause_of_any_source(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        pipelines = list(it.daemon.sources)
        subscriptions = [each.subscription for each in pipelines]
        await it.it.publish("orders", {"kind": "start", "id": 1})
        await it.it.settled(1)
        before = it.daemon.loaded.version
        answer = await it.reload(('"order-{{', '"new-{{'))
        assert answer["result"] == "reloaded"
        assert (answer["from"], answer["to"]) == (before, it.daemon.loaded.version)
        assert changes(answer) == {"orders": "rules", "other": "unchanged"}
        [route] = answer["routes"]
        assert (route["route"], route["keys"], route["repeats"]) == ("start", ["schedule.instance_id"], True)
        await it.it.publish("orders", {"kind": "start", "id": 2})
        await it.it.settled(2)
        assert await it.ids() == ["new-2", "order-1"]
        assert it.daemon.sources == pipelines
        assert [each.subscription for each in pipelines] == subscriptions
        scraped = (await it.daemon.watch._metrics.scrape()).decode()
        assert f'config="{answer["to"]}"' in scraped
        assert 'bridge_config_reloads_total{result="reloaded"} 1.0' in scraped


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("payload.kind ==", "payload.kind =", "R001"),
        ("orchestration: order", "orchestration: missing", "R009"),
        ("{type: local}", "{type: local, partitions: 7}", "brokers.local.partitions"),
        ("{type: embedded}", "{type: embedded, path: elsewhere}", "engines.default.path"),
        ("port: 0", "port: 1", "ops.http.port"),
    ],
)
async def test_a_reload_that_is_refused_changes_nothing(tmp_path: Path, old: str, new: str, problem: str) -> None:
    async with reloading(tmp_path) as it:
        before, rules = it.daemon.loaded, it.daemon.sources[0].rules.current
        answer = await it.reload((old, new), ('"order-{{', '"new-{{'))
        assert answer["result"] == "refused"
        assert any(problem in each for each in answer["problems"]), answer["problems"]
        assert it.daemon.loaded is before
        assert it.daemon.sources[0].rules.current is rules
        assert it.daemon.watch.health().ready
        assert not it.daemon.reloads.successful
        status = await it.daemon.status.document()
        assert problem in status["daemons"][0]["config"]["reload_refused"]
        await it.it.publish("orders", {"kind": "start", "id": 1})
        await it.it.settled(1)
        assert await it.ids() == ["order-1"]
        it.path.write_text(it.path.read_text().replace(new, old))
        assert (await it.reloader.reload("test"))["result"] == "reloaded"
        assert it.daemon.reloads.successful


async def test_changed_workflow_code_needs_a_restart(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        [code] = tmp_path.glob("flows_*.py")
        code.write_text(FLOWS + "\n# changed\n")
        answer = await it.reload(('"order-{{', '"new-{{'))
        assert answer["result"] == "refused"
        assert answer["problems"] == [f"{code}: workflow code has changed, which needs a restart of the daemon"]


async def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        it.change(('"order-{{', '"new-{{'), ("topics: [other]", "topics: [other, more]"))
        before = it.daemon.loaded
        answer = await it.reloader.plan()
        assert (answer["dry_run"], answer["result"]) == (True, "reloaded")
        assert changes(answer) == {"orders": "rules", "other": "restarted"}
        assert it.daemon.loaded is before
        assert sum(it.daemon.reloads.results.values()) == 0


async def test_sources_start_and_drain_alone(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        orders, other = it.daemon.sources
        await it.it.publish("other", {"id": 1})
        await it.it.settled(1)
        third = "  third: {broker: local, topics: [third], codec: json, no_match: ignore}\n"
        answer = await it.reload(("\nvars:", f"{third}vars:"), ("topics: [other]", "topics: [other, more]"))
        assert changes(answer) == {"orders": "unchanged", "other": "restarted", "third": "added"}
        assert it.daemon.sources[0] is orders
        [moved] = [each for each in it.daemon.sources if each.settings.name == "other"]
        assert moved is not other
        assert moved.ledger is other.ledger
        for topic in ("more", "third"):
            await it.it.publish(topic, {"id": 1})
        await it.it.settled(3)
        answer = await it.reload((third, ""))
        assert changes(answer) == {"orders": "unchanged", "other": "unchanged", "third": "removed"}
        assert [each.settings.name for each in it.daemon.sources] == ["orders", "other"]
        assert moved in it.daemon.sources
        stop = asyncio.Event()
        ending = asyncio.create_task(it.daemon.wait(stop))
        await it.reload(("topics: [other, more]", "topics: [other]"))
        stop.set()
        await asyncio.wait_for(ending, TIMEOUT)


async def test_sources_of_one_ordering_domain_change_together(tmp_path: Path) -> None:
    config = CONFIG.replace("no_match: dead_letter}", "no_match: dead_letter, ordering_domain: d}").replace(
        "no_match: ignore}", "no_match: ignore, ordering_domain: d}"
    )
    async with reloading(tmp_path, config) as it:
        answer = await it.reload(("topics: [other]", "topics: [other, more]"))
        assert changes(answer) == {"orders": "restarted", "other": "restarted"}
        await it.it.publish("orders", {"kind": "start", "id": 1}, key="k")
        await it.it.publish("more", {"id": 1}, key="k")
        await it.it.settled(2)


async def test_retries_and_limits_change_at_once(tmp_path: Path) -> None:
    limited = CONFIG.replace("orchestration: order,", "orchestration: waits,").replace(
        "    schedule:", "    limits: {running: 1}\n    schedule:"
    )
    async with reloading(tmp_path, limited) as it:
        for number in range(3):
            await it.it.publish("orders", {"kind": "start", "id": number})
        [limit] = it.daemon.admission.limits.values()
        await it.it.until(lambda: limit.waiting == 2, "two wait")
        await it.reload(("running: 1", "running: 2"))
        await it.it.until(lambda: limit.waiting == 1, "one waits")
        assert list(it.daemon.admission.limits.values()) == [limit]
        answer = await it.reload(
            ("    limits: {running: 2}\n", ""), ("group: orders,", "group: orders, retry: {initial: 9s},")
        )
        assert changes(answer)["orders"] == "rules"
        assert it.daemon.sources[0].rules.current.retry.initial == 9.0
        assert not it.daemon.admission.limits
        await it.it.settled(3)


async def test_an_early_message_of_a_new_rule_waits(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        route = """
  - name: event
    from: orders
    when: payload.kind == "event"
    raise_event: {instance_id: "order-{{ payload.id }}", name: go, on_missing: {wait: 1h}}
"""
        it.path.write_text(it.path.read_text() + route)
        assert (await it.reload())["result"] == "reloaded"
        await it.it.publish("orders", {"kind": "event", "id": 1})
        await it.it.settled(1)
        assert it.it.outcomes() == {"early": 1}


async def test_targets_and_totals_change(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        target = "targets: {results: {broker: local, topic: results}}\n"
        answer = await it.reload(
            ("vars:", f"{target}vars:"), ("{type: embedded}", "{type: embedded, early_messages: {total_messages: 5}}")
        )
        assert answer["result"] == "reloaded", answer["problems"]
        assert sorted(answer["settings"]) == ["engines.default.early_messages.total_messages", "targets.results"]
        assert it.daemon.totals["default"]._max_messages == 5
        assert "results" in it.daemon.publishing._targets


async def test_a_source_whose_broker_is_away_is_unready_until_it_starts(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        broker = it.daemon.brokers["local"]
        subscribe, away = broker.subscribe, asyncio.Event()

        async def refused(options: Any, listener: Any) -> Any:
            away.set()
            raise BrokerUnavailable("nobody is there")

        broker.subscribe = refused  # type: ignore[method-assign]  # an outage
        third = "  third: {broker: local, topics: [third], codec: json, no_match: ignore, retry: {max_delay: 1ms}}\n"
        pending = asyncio.create_task(it.reload(("\nvars:", f"{third}vars:")))
        await asyncio.wait_for(away.wait(), TIMEOUT)
        await it.it.until(lambda: not it.daemon.watch.health().ready, "unready")
        broker.subscribe = subscribe  # type: ignore[method-assign]  # the end of the outage
        assert changes(await pending)["third"] == "added"
        await it.it.publish("third", {"id": 1})
        await it.it.settled(1)
        assert it.daemon.watch.health().ready


async def test_a_source_that_is_removed_before_it_has_started_does_not_start(tmp_path: Path) -> None:
    async with reloading(tmp_path) as it:
        source = it.daemon.sources[1]
        subscribed = asyncio.Event()
        subscribe, go = source.broker.subscribe, asyncio.Event()

        async def late(options: Any, listener: Any) -> Any:
            subscribed.set()
            await go.wait()
            return await subscribe(options, listener)

        source.broker.subscribe = late  # type: ignore[method-assign]  # a slow broker
        domains, limits = it.daemon.domains, it.daemon.admission.limits
        other = it.daemon.build_source(it.daemon.loaded, "other", domains, limits, {})
        starting = asyncio.create_task(other.start(patient=True))
        await asyncio.wait_for(subscribed.wait(), TIMEOUT)
        await other.drain(1.0)
        go.set()
        await asyncio.wait_for(starting, TIMEOUT)
        assert other.subscription is None
        assert not other.tasks


async def test_changed_schema_files_are_reloaded(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"type": "object"}')
    config = CONFIG.replace("group: orders,", "group: orders, schema: order.json,")
    async with reloading(tmp_path, config) as it:
        assert (await it.reload())["result"] == "unchanged"
        (tmp_path / "order.json").write_text('{"type": "object", "required": ["name"]}')
        answer = await it.reload()
        assert (answer["result"], answer["settings"]) == ("reloaded", [str(tmp_path / "order.json")])
        await it.it.publish("orders", {"kind": "start", "id": 1})
        await it.it.settled(1)
        assert it.it.outcomes() == {"dead_lettered": 1}
