"""Limits per value: one sender with far too many messages, and others in the same topic."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.app.composition import build_router, load_config
from bridge.app.serve.admission import build_admission, count, listen
from bridge.app.serve.views.watch import SourceView
from bridge.core.commands import Command, RaiseEvent, ScheduleOrchestration
from bridge.core.errors import ConfigError, EngineUnavailable
from bridge.core.message import Message
from bridge.ops.metrics import Metrics
from bridge.routing.per import TAG, digest
from tests.kit.pipeline import CONFIG, START, PipelineFixture, held_lanes, message, running_pipeline

pytestmark = pytest.mark.long

HONEST = [f"honest-{number}" for number in range(9)]
PER = """
    limits:
      max_gap: 100000
      max_in_flight: 200
      per: {value: "{{ payload.tenant }}", max_in_flight: 8, max_waiting: 20000}
"""


def order(tenant: Any, number: int | str, key: str | None = None, **fields: Any) -> Message:
    return message("start", f"{tenant}-{number}", key or f"{tenant}-{number}", tenant=tenant, **fields)


def ids(commands: list[Command]) -> list[str]:
    return [command.instance_id for command in commands if isinstance(command, ScheduleOrchestration)]


def tenant_of(command: Command) -> str:
    assert isinstance(command, ScheduleOrchestration)
    return command.instance_id.removeprefix("order-").rpartition("-")[0]


class Held:
    """Executor hook that holds the commands of some tenants until `open` is set, and counts them."""

    def __init__(self, *tenants: str) -> None:
        self.tenants = tenants
        self.open = asyncio.Event()
        self.at_work: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def __call__(self, command: Command) -> None:
        tenant = tenant_of(command)
        self.at_work[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.at_work[tenant])
        if tenant in self.tenants:
            await self.open.wait()
        self.at_work[tenant] -= 1


# -- messages that a source has in flight


async def test_one_tenant_with_10_000_messages_leaves_the_source_to_nine_others(tmp_path: Path) -> None:
    """No message of the greedy tenant ends before those of all others, although all of them came first."""
    held = Held("greedy")
    async with running_pipeline(tmp_path, START, PER) as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(10_000)))
        await it.publish(*(order(tenant, number) for number in range(10) for tenant in HONEST))
        await it.source.start()
        await it.settled(90)
        assert {tenant_of(command) for command in it.faults.taken} == set(HONEST)
        shares = it.source.shares
        assert shares is not None
        assert held.at_work["greedy"] == 8
        assert shares.records == 10_000 - 8
        assert it.source.ledger.in_flight == 10_000
        assert not it.source.gate.full

        # The latency of an honest tenant depends on its own load only: no greedy message needs to end first
        for number in range(10, 13):
            await it.publish(*(order(tenant, number) for tenant in HONEST))
            await it.settled(90 + 9 * (number - 9))
        assert held.at_work["greedy"] == held.most["greedy"] == 8

        held.open.set()
        await it.settled(10_000 + 9 * 13)
        assert held.most["greedy"] == 8
        assert (shares.records, shares.size) == (0, 0)
        assert it.source.ledger.outcomes["executed"] == 10_000 + 9 * 13


async def test_workers_are_shared_too(tmp_path: Path) -> None:
    """One value may have all workers, but its waiting messages do not delay others once they are released."""
    source = """
    limits:
      concurrency: 4
      per: {value: "{{ payload.tenant }}", max_in_flight: 8}
"""
    held = Held("greedy")
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(2000)))
        await it.publish(*(order(tenant, 0) for tenant in HONEST))
        await it.source.start()
        await it.until(lambda: it.source.ledger.in_flight == 2009 and held.at_work["greedy"] == 4, "all are read")
        held.open.set()
        await it.settled(2009)
        tenants = [tenant_of(command) for command in it.faults.taken]
        last = max(tenants.index(tenant) for tenant in HONEST)
        assert last < 8 + len(HONEST) + 4, "what had its place, the others, and what went in the meantime"


async def test_without_it_one_tenant_takes_the_whole_source(tmp_path: Path) -> None:
    """Counter-check of the test above."""
    held = Held("greedy")
    async with running_pipeline(tmp_path, START, "    limits: {max_in_flight: 200}") as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(500)))
        await it.publish(*(order(tenant, 0) for tenant in HONEST))
        await it.source.start()
        await it.until(lambda: it.source.gate.full, "the source is full")
        assert not it.faults.taken
        held.open.set()
        await it.settled(509)


async def test_order_per_key_holds_among_values_too(tmp_path: Path) -> None:
    """A message waits for the earlier message of its key, also when only the value of the earlier one is at its
    limit."""
    held = Held("a")
    source = '    limits: {per: {value: "{{ payload.tenant }}", max_in_flight: 1}}'
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(order("a", 1, "k1"), order("a", 2, "k2"), order("b", 3, "k2"), order("b", 4, "k4"))
        await it.source.start()
        await it.until(lambda: held.at_work["a"] == 1 and it.source.shares and it.source.shares.records, "they wait")
        assert ids(it.faults.taken) in ([], ["order-b-4"])
        held.open.set()
        await it.settled(4)
        taken = ids(it.faults.taken)
        assert taken.index("order-a-1") < taken.index("order-a-2") < taken.index("order-b-3")


async def test_bytes_are_bounded_per_value_and_one_large_message_always_passes(tmp_path: Path) -> None:
    held = Held("a")
    source = '    limits: {per: {value: "{{ payload.tenant }}", max_in_flight_bytes: 3000}}'
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order("a", number, fill="x" * 1200) for number in range(5)))
        await it.publish(order("b", 0, fill="x" * 100_000))
        await it.source.start()
        await it.settled(1)
        assert ids(it.faults.taken) == ["order-b-0"]
        assert it.source.shares is not None
        await it.until(lambda: it.source.ledger.in_flight == 5, "all are read")
        await it.until(lambda: held.at_work["a"] == 2, "two fit")
        assert it.source.shares.records == 3
        assert it.source.shares.size > 3 * 1200
        held.open.set()
        await it.settled(6)
        assert held.most["a"] == 2


@pytest.mark.parametrize("bound", ["max_waiting: 40", "max_waiting_bytes: 4000"])
async def test_what_waits_is_bounded_too(tmp_path: Path, bound: str) -> None:
    """Waiting messages are limited in number and bytes; at the limit the source stops reading, and loses no message."""
    held = Held("greedy")
    source = f'    limits: {{max_in_flight: 20, per: {{value: "{{{{ payload.tenant }}}}", max_in_flight: 2, {bound}}}}}'
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(1000)))
        await it.publish(order("honest-0", 0))
        await it.source.start()
        await it.until(lambda: it.source.gate.full, "the source is full")
        assert it.source.shares is not None
        batch = it.source.settings.limits.max_in_flight
        most = 40 + batch if bound == "max_waiting: 40" else 4000 // 50 + batch
        assert it.source.shares.records <= most, "one batch more at most"
        assert it.source.ledger.in_flight == it.source.shares.records + 2
        held.open.set()
        await it.settled(1001)
        assert held.most["greedy"] == 2
        assert not it.source.gate.full


async def test_another_value_in_each_message_stays_bounded_and_takes_nothing_from_others(tmp_path: Path) -> None:
    """The first values have their own limits, all further values share one; existing values keep theirs."""
    source = """
    limits:
      max_gap: 100000
      max_in_flight: 200
      per: {value: "{{ payload.tenant }}", max_in_flight: 4, max_waiting: 20000, max_values: 12}
"""
    churn = [f"churn{number}" for number in range(5000)]
    held = Held(*churn)
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order(tenant, 0) for tenant in HONEST))
        await it.source.start()
        await it.settled(9)
        await it.publish(*(order(tenant, 0) for tenant in churn))
        await it.publish(*(order(tenant, number) for number in range(1, 6) for tenant in HONEST))
        await it.settled(9 + 45)
        assert {tenant_of(command) for command in it.faults.taken} == set(HONEST)
        shares = it.source.shares
        assert shares is not None
        assert len(shares.values) == 12
        assert shares.values.overflows == 5000 - 3
        assert sum(held.at_work.values()) == 3 + 4, "three values of one message, and the share of all the rest"
        held.open.set()
        await it.settled(9 + 45 + 5000)


async def test_messages_without_a_value_share_one_bound(tmp_path: Path) -> None:
    """No member, null, empty, no text, no JSON: the message is not refused."""
    source = '    limits: {per: {value: "{{ payload.tenant }}", max_in_flight: 1}}'
    bodies = [b'{"id": "x-1"}', b'{"id": "x-2", "tenant": null}', b'{"id": "x-3", "tenant": ""}']
    bodies += [b'{"id": "x-4", "tenant": ["x"]}', b'{"id": "x-5", "tenant": {}}', b"no JSON"]
    held = Held("x")
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(Message(body, str(n).encode(), (("type", b"start"),)) for n, body in enumerate(bodies)))
        await it.publish(order("honest-0", 0))
        await it.source.start()
        await it.settled(1)
        await it.until(lambda: it.source.ledger.in_flight == 6, "all are read")
        assert ids(it.faults.taken) == ["order-honest-0-0"]
        assert it.source.shares is not None
        assert len(it.source.shares.values) == 1
        held.open.set()
        await it.settled(7)
        assert held.most["x"] == 1
        assert it.source.ledger.outcomes["executed"] == 6
        assert it.source.ledger.dead_letters == {"decode_error": 1}


async def test_an_outage_and_a_drain_lose_no_count(tmp_path: Path) -> None:
    source = '    limits: {per: {value: "{{ payload.tenant }}", max_in_flight: 2}}'
    held = Held("greedy")
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(30)))
        await it.source.start()
        await it.until(lambda: it.source.ledger.in_flight == 30 and held.at_work["greedy"] == 2, "they wait")
        shares = it.source.shares
        assert shares is not None
        it.faults.outage = EngineUnavailable("away")
        it.breaker.trip(it.faults.outage)
        await it.until(lambda: it.source.gate.pause_reasons, "held")
        it.faults.outage = None
        await it.until(lambda: not it.source.gate.pause_reasons, "goes on")
        await it.until(lambda: not held_lanes(it.source.lanes) or shares.records == 28, "they wait again")
        assert held.most["greedy"] == 2
        held.open.set()
        await it.settled(10)
        held.open.clear()
        await it.until(lambda: held.at_work["greedy"] == 2 or not it.source.ledger.in_flight, "some wait")
        held.open.set()
        await it.source.drain(5)
        assert (shares.records, shares.size) == (0, 0)
        assert all(share.idle(0.0) for share in (shares.values.shared, shares.values.of(digest("greedy"), 0.0)))


async def test_what_is_revoked_while_it_waits_leaves_no_count(tmp_path: Path) -> None:
    """A revocation may also release other messages of the value. Revoked ones leave no count, and the others stay."""
    source = '    limits: {per: {value: "{{ payload.tenant }}", max_in_flight: 2}}'
    held = Held("greedy")
    async with running_pipeline(tmp_path, START, source) as it:
        it.faults.before = held
        await it.publish(*(order("greedy", number) for number in range(60)))
        await it.source.start()
        await it.until(lambda: it.source.ledger.in_flight == 60 and held.at_work["greedy"] == 2, "they wait")
        shares = it.source.shares
        assert shares is not None
        gone, stays = sorted(it.source.assignment, key=lambda partition: partition.number)
        revoking = asyncio.create_task(it.source.revoked([gone]))
        await it.until(lambda: it.source.ledger.abandoned["revoked"], "what waits is given back")
        share = shares.values.of(digest("greedy"), 0.0)
        assert share.records <= 2
        assert shares.records + share.records == it.source.ledger.in_flight
        held.open.set()
        await revoking
        await it.until(lambda: not it.source.ledger.in_flight, "all that stays is done")
        assert (share.records, shares.records, shares.size) == (0, 0, 0)
        assert stays.gap == 0


# -- instances that a route runs


CAPPED = """
  - name: start
    from: orders
    match: {type: start}
    limits: {running: 30, per: {value: "{{ payload.tenant }}", running: 2}}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
"""


async def go(it: PipelineFixture) -> None:
    it.admission.start()
    await it.source.start()


def running(it: PipelineFixture) -> Counter[str]:
    return Counter(tenant_of(command) for command in it.faults.taken)


async def test_starts_of_one_value_wait_and_those_of_others_go(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(order("greedy", number) for number in range(20)))
        await it.publish(*(order(tenant, number) for number in range(2) for tenant in HONEST))
        await go(it)
        await it.until(
            lambda: len(it.faults.taken) == 20 and it.source.route_limits["start"].waiting == 18, "all have theirs"
        )
        limit = it.source.route_limits["start"]
        assert set(running(it).values()) == {2}
        assert limit.reason == "18 starts wait for others of their value (2 may run)"
        assert limit.values == (10, 0)

        await it.engine.client.terminate_orchestration("order-honest-0-0")
        await it.publish(order("honest-0", 9), order("honest-1", 9))
        await it.until(lambda: running(it)["honest-0"] == 3 and limit.waiting == 19, "one place, of its own value")
        assert running(it)["greedy"] == 2
        while limit.waiting:
            for instance_id in ids(it.faults.taken):
                await it.engine.client.terminate_orchestration(instance_id)
            await asyncio.sleep(0)
        await it.settled(40)
        assert it.source.ledger.outcomes["executed"] == 40


async def test_values_in_a_queue_are_served_in_turn(tmp_path: Path) -> None:
    """At the cap of the route, a long queue of one value does not lengthen the wait of another."""
    routes = CAPPED.replace("running: 30", "running: 2")
    async with running_pipeline(tmp_path, routes) as it:
        await it.publish(*(order("first", number) for number in range(2)))
        await go(it)
        await it.settled(2)
        await it.publish(*(order("greedy", number) for number in range(20)))
        await it.until(lambda: it.source.route_limits["start"].waiting == 20, "they wait")
        await it.publish(order("honest-0", 0))
        await it.until(lambda: it.source.route_limits["start"].waiting == 21, "it waits too")
        for instance_id in ("order-first-0", "order-first-1"):
            await it.engine.client.terminate_orchestration(instance_id)
        await it.settled(4)
        assert running(it) == {"first": 2, "greedy": 1, "honest-0": 1}


async def test_running_counts_per_value_are_known_after_a_restart(tmp_path: Path) -> None:
    """Starts of another process count, too: each instance carries the digest of its value, never the value."""
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(order("greedy", number) for number in range(2)), order("honest-0", 0))
        await go(it)
        await it.settled(3)
        # Count of a daemon that starts now
        admission = build_admission(load_config([tmp_path / "bridge.yaml"]), {"default": it.engine})
        listen(admission, {"default": it.engine})
        running_instances = admission.limits["start"].running_instances
        assert running_instances is not None
        assert running_instances.values is not None
        admission.start()
        try:
            await it.until(lambda: running_instances.known, "counted")
            counts = [
                running_instances.values.of(digest(name), 0.0).running for name in ("greedy", "honest-0", "honest-1")
            ]
            assert counts == [2, 1, 0]
            await it.engine.client.terminate_orchestration("order-greedy-0")
            await it.until(
                lambda: running_instances.values.of(digest("greedy"), 0.0).running == 1, "one is reported as ended"
            )
        finally:
            await admission.stop()
        [start] = [command for command in it.faults.taken if command.instance_id == "order-honest-0-0"]  # type: ignore[union-attr]  # schedules only
        assert isinstance(start, ScheduleOrchestration)
        assert start.tags == {TAG: digest("honest-0")}


async def test_a_count_reads_tags_page_by_page(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        for number in range(5):
            tags = {TAG: f"v{number}"} if number else None
            await it.engine.client.schedule_new_orchestration("order", instance_id=f"order-{number}", tags=tags)
        await it.engine.client.schedule_new_orchestration("other", instance_id="unlike-1")
        read = await it.engine.client.get_all_tags([], "order-", 2, what="count")
        found = {name: tags.get(TAG) for name, _, tags in read}
        assert found == {"order-0": None, **{f"order-{number}": f"v{number}" for number in range(1, 5)}}
        await finish_all(it, *found)
        assert await count(it.engine, "order-", values=True)() == {}


async def finish_all(it: PipelineFixture, *names: str) -> None:
    for name in names:
        await it.engine.client.terminate_orchestration(name)


async def test_no_value_is_shown_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No value in logs, metrics, reasons or tags, whether the message waits or the template fails."""
    marker = "S3CRET-TENANT"
    source = """
    limits: {per: {value: "{{ payload.tenant + payload.suffix }}", max_in_flight: 1, max_waiting: 3}}
"""
    routes = CAPPED.replace("payload.tenant", "payload.tenant + payload.suffix")
    with capture_logs() as logs:
        async with running_pipeline(tmp_path, routes, source) as it:
            await it.publish(*(message("start", n, f"k{n}", tenant=marker, suffix="!") for n in range(12)))
            await it.publish(*(message("start", n, f"k{n}", tenant=marker) for n in range(12, 18)))
            await go(it)
            await it.until(
                lambda: it.source.gate.full and it.source.route_limits["start"].waiting, "its own bounds hold it"
            )
            view = SourceView(it.source, stuck_after=60.0)
            metrics = Metrics(
                lambda: [view], list, limits=list(it.source.route_limits.values()), version="1", config="c"
            ).render()
            reading = view.reading()
            assert reading.throttled
            assert b"bridge_value_waiting" in metrics
            shown = [metrics.decode(), str(reading), str([getattr(each, "tags", None) for each in it.faults.taken])]
    printed = capsys.readouterr()
    shown += [printed.out, printed.err, str(logs)]
    assert "stops reading" in str(logs)
    assert not [text for text in shown if marker in text]


async def test_what_comes_back_and_what_is_dropped_gives_its_place_back(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        for number in range(6):
            await it.engine.client.schedule_new_orchestration("order", instance_id=f"order-a-{number}")
            await it.engine.client.terminate_orchestration(f"order-a-{number}")
        await it.publish(*(order("a", number) for number in range(9)))
        await go(it)
        await it.settled(8)
        assert it.source.ledger.outcomes == {**it.source.ledger.outcomes, "ignored": 6, "executed": 2}
        await it.until(lambda: it.source.route_limits["start"].waiting == 1, "the last one waits")
        await it.source.drain(5)
        limit = it.source.route_limits["start"]
        assert limit.waiting == 0
        assert limit.running_instances is not None
        assert limit.running_instances.values is not None
        counted = limit.running_instances.values.of(digest("a"), 0.0)
        assert (counted.running, counted.waiting) == (2, 0)


async def test_a_rate_per_value_takes_no_room_from_others(tmp_path: Path) -> None:
    """A sender far beyond its rate holds neither slots nor tokens of the route."""
    routes = """
  - name: start
    from: orders
    match: {type: start}
    limits: {running: 12, rate: 1000/s, burst: 100, per: {value: "{{ payload.tenant }}", rate: 1/h, burst: 2}}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
"""
    async with running_pipeline(tmp_path, routes) as it:
        await it.publish(*(order("greedy", number) for number in range(60)))
        await it.publish(*(order(tenant, 0) for tenant in HONEST))
        await go(it)
        await it.settled(11)
        assert running(it) == {"greedy": 2, **dict.fromkeys(HONEST, 1)}
        limit = it.source.route_limits["start"]
        await it.until(lambda: limit.delayed == 58, "the others have their time")
        assert limit.reason == "58 commands wait for the rate", "which is ready, and not stuck"
        assert limit.running_instances is not None
        assert len(limit.running_instances) == 11
        assert limit.values == (10, 0)


async def test_each_command_of_a_list_counts_for_its_own_value(tmp_path: Path) -> None:
    routes = """
  - name: each
    from: orders
    match: {type: start}
    for_each: payload.items
    limits: {per: {value: "{{ item.tenant }}", running: 1}}
    schedule: {orchestration: order, instance_id: "order-{{ item.tenant }}-{{ index }}"}
"""
    async with running_pipeline(tmp_path, routes) as it:
        items = [{"tenant": tenant} for tenant in ("a", "b", "b")]
        await it.publish(message("start", 1, items=items))
        await go(it)
        await it.until(lambda: it.source.route_limits["each"].waiting == 1, "the second of b waits")
        await it.until(lambda: running(it) == {"a": 1, "b": 1}, "the first of each runs")
        await it.engine.client.terminate_orchestration("order-b-1")
        await it.settled(1)


async def test_events_have_a_rate_per_value_and_no_tag(tmp_path: Path) -> None:
    routes = """
  - name: tell
    from: orders
    match: {type: start}
    limits: {per: {value: "{{ payload.tenant }}", rate: 1/h}}
    raise_event: {instance_id: "order-1", name: noted}
"""
    async with running_pipeline(tmp_path, routes) as it:
        await it.engine.client.schedule_new_orchestration("order", instance_id="order-1")
        await it.publish(*(order(tenant, number) for tenant in ("a", "b") for number in range(3)))
        await go(it)
        await it.settled(2)
        await it.until(lambda: it.source.route_limits["tell"].delayed == 4, "the others wait")
        assert all(isinstance(command, RaiseEvent) for command in it.faults.taken)


# -- configuration


@pytest.mark.parametrize(
    ("source", "route", "path", "said"),
    [
        ('limits: {per: {value: "{{ payload.x + }}"}}', "", "sources.orders.limits.per.value", "early|not expected"),
        ('limits: {per: {value: "fixed"}}', "", "sources.orders.limits.per.value", "same value"),
        ('limits: {per: {value: "{{ event.tenant }}"}}', "", "sources.orders.limits.per.value", "event has no tenant"),
        ('limits: {per: {value: "{{ key }}", max_in_flight: 1001}}', "", "sources.orders.limits", "of the source"),
        ("", 'limits: {per: {value: "{{ payload.[ }}", rate: 1/s}}', "routes[0].limits.per.value", "not expected here"),
        ("", 'limits: {per: {value: "{{ item.x }}", rate: 1/s}}', "routes[0].limits.per.value", "item"),
        ("", 'limits: {per: {value: "{{ event.key }}"}}', "routes[0].limits.per", "write `running`, `rate` or both"),
        ("", 'limits: {per: {value: "{{ event.key }}", running: 1, burst: 2}}', "routes[0].limits.per", "burst"),
        ("", 'limits: {running: 1, per: {value: "{{ event.key }}", running: 2}}', "routes[0].limits", "of the route"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, source: str, route: str, path: str, said: str) -> None:
    file = tmp_path / "bridge.yaml"
    rule = f"{START}    {route}\n" if route else START
    file.write_text(CONFIG.format(codec="json", source=f"    {source}\n" if source else "", routes=rule))
    with pytest.raises(ConfigError, match=said) as caught:
        build_router(load_config([file]), "orders")
    [problem] = caught.value.problems
    assert problem.path == path
    assert (problem.line, problem.column) > (1, 1)


def test_a_cap_per_value_needs_something_to_count(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    limits = '    limits: {per: {value: "{{ event.key }}", running: 2}}\n'
    file.write_text(CONFIG.format(codec="json", source="", routes=START.replace("order-", "") + limits))
    with pytest.raises(ConfigError, match="constant prefix") as caught:
        build_router(load_config([file]), "orders")
    assert [problem.path for problem in caught.value.problems] == ["routes[0].limits.per.running"]
