"""Exported metrics, their sources, and the Prometheus text format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from bridge.core.histogram import LONG_SECONDS, SECONDS, Histogram
from bridge.core.message import Message
from bridge.core.states import DaemonState, EngineState, SourceState
from bridge.engines.base import EngineUsage
from bridge.ops.health import Check, Readiness
from bridge.ops.metric_stats import LineageStats
from bridge.ops.metrics import CONTENT_TYPE, Metrics
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.limits.per_value import ValueShares
from tests.pipeline.deliveries import shares_of


@dataclass
class Stats:
    name: str = "orders"
    received: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    unreadable: dict[tuple[str, int, str], int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    abandoned: dict[str, int] = field(default_factory=dict)
    commands: dict[tuple[str, str], int] = field(default_factory=dict)
    retries: int = 0
    bugs: int = 0
    in_flight: int = 0
    in_flight_bytes: int = 0
    unloaded: int = 0
    queued: int = 0
    locks_lost: int = 0
    seeks: int = 0
    quarantined_keys: int = 0
    shares: ValueShares | None = None
    dead_letter_pauses: Mapping[str, float] = field(default_factory=dict)
    rebalances: int = 0
    skipped: int = 0
    reconnects: int = 0
    renewals: int = 0
    commits: tuple[int, float] = (0, 0.0)
    held: bool = False
    waiting_for_engines: Mapping[str, int] = field(default_factory=dict)
    probing: bool = False
    processing: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)

    def partitions(self) -> Iterable[tuple[str, int, int, int]]:
        return [("orders", 0, 5, 7), ("orders", 1, 0, 0)]

    def ages(self) -> Iterable[tuple[str, int, float]]:
        return [("orders", 0, 12.5)]


@dataclass
class Index:
    events: Mapping[str, int] = field(default_factory=lambda: {"written": 3})
    buffered: int = 4


@dataclass
class Engine:
    name: str = "default"
    up: bool = True
    durable: bool = False
    incompatible: Mapping[str, int] = field(default_factory=lambda: {"order_saga": 2})
    unknown: Mapping[str, int] = field(default_factory=lambda: {"target": 3})
    faults: Mapping[str, int] = field(default_factory=lambda: {"turn": 4})
    stuck: int = 2
    usage: EngineUsage | None = field(default_factory=lambda: EngineUsage(1000, 2000, 3))
    lineage: LineageStats | None = field(default_factory=lambda: Index())
    instances: Mapping[tuple[str, str], int] = field(default_factory=lambda: {("order_saga", "running"): 7})
    finished: Mapping[tuple[str, str], int] = field(default_factory=lambda: {("order_saga", "failed"): 8})
    failures_omitted: int = 9
    requests: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    actions: Mapping[tuple[str, str], int] = field(default_factory=lambda: {("start", "start"): 5, ("", "timer"): 6})
    worker_processes: Mapping[str, int] = field(default_factory=lambda: {"running": 2})
    worker_ends: Mapping[str, int] = field(default_factory=lambda: {"SIGKILL": 3})
    worker_items: int = 11


@dataclass
class Workflows:
    sagas: Mapping[tuple[str, str], int] = field(default_factory=lambda: {("checkout", "compensated"): 2})
    orchestrations: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    activities: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    sessions: int = 3
    replays: int = 4


@dataclass
class Limit:
    route: str = "start"
    running: int | None = 5
    running_instances: tuple[int, ...] | None = (1, 2, 3)
    waiting: int = 7
    delayed: int = 2
    rate: float | None = 2.5
    until: float | None = 1.8e9
    values: tuple[int, int] | None = None


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_number_is_exported_with_its_labels() -> None:
    stats = Stats(
        received=11,
        outcomes={"executed": 5, "dead_lettered": 2},
        dead_letters={"decode_error": 2},
        unreadable={("orders", 1, "crc"): 3},
        gaps={"compacted": 6},
        abandoned={"revoked": 1},
        commands={("start", "schedule"): 5},
        retries=3,
        bugs=2,
        in_flight=3,
        in_flight_bytes=4096,
        unloaded=3,
        queued=2,
        locks_lost=1,
        seeks=2,
        rebalances=2,
        skipped=3,
        reconnects=4,
        renewals=9,
        commits=(4, 0.5),
        held=True,
    )
    stats.processing.observe(0.001)
    stats.processing.observe(0.002)
    stats.end_to_end.observe(9999.0)
    text = Metrics(lambda: [stats, Stats("payments")], lambda: [Engine()], version="1.2", config="abc").render()
    found = samples(text)

    def value(name: str, source: str = "orders", **labels: str) -> float:
        return found[name, frozenset({"source": source, **labels}.items())]

    assert value("bridge_received_total") == 11
    assert value("bridge_received_total", "payments") == 0
    assert value("bridge_outcomes_total", outcome="executed") == 5
    assert value("bridge_dead_letters_total", reason="decode_error") == 2
    assert value("bridge_unreadable_messages_total", topic="orders", partition="1", fault="crc") == 3
    assert value("bridge_offset_gaps_total", kind="compacted") == 6
    assert value("bridge_abandoned_total", reason="revoked") == 1
    assert value("bridge_commands_total", route="start", command="schedule") == 5
    assert value("bridge_retries_total") == 3
    assert value("bridge_bugs_total") == 2
    assert value("bridge_locks_lost_total") == 1
    assert value("bridge_seeks_total") == 2
    assert value("bridge_rebalances_total") == 2
    assert value("bridge_skipped_total") == 3
    assert (value("bridge_reconnects_total"), value("bridge_lock_renewals_total")) == (4, 9)
    assert value("bridge_commits_total") == 4
    assert value("bridge_commit_seconds_total") == 0.5
    assert value("bridge_in_flight") == 3
    assert value("bridge_in_flight_bytes") == 4096
    assert value("bridge_unloaded") == 3
    assert value("bridge_queued") == 2
    assert (value("bridge_held"), value("bridge_probing")) == (1, 0)
    assert value("bridge_uncommitted_records", topic="orders", partition="0") == 5
    assert value("bridge_lag", topic="orders", partition="0") == 7
    assert value("bridge_oldest_unprocessed_seconds", topic="orders", partition="0") == 12.5
    assert (
        "bridge_oldest_unprocessed_seconds",
        frozenset({"source": "orders", "topic": "orders", "partition": "1"}.items()),
    ) not in found
    assert value("bridge_processing_seconds_count") == 2
    assert value("bridge_processing_seconds_sum") == pytest.approx(0.003)
    assert value("bridge_processing_seconds_bucket", le="0.001") == 1
    assert value("bridge_processing_seconds_bucket", le="0.0025") == 2
    assert value("bridge_processing_seconds_bucket", le="+Inf") == 2
    assert value("bridge_end_to_end_seconds_bucket", le="1800.0") == 0
    assert value("bridge_end_to_end_seconds_bucket", le="+Inf") == 1
    assert found["bridge_engine_up", frozenset({("engine", "default")})] == 1
    assert found["bridge_engine_durable", frozenset({("engine", "default")})] == 0
    changed = frozenset({("engine", "default"), ("orchestration", "order_saga")})
    assert found["bridge_incompatible_total", changed] == 2
    faults = frozenset({("engine", "default"), ("kind", "turn")})
    assert found["bridge_engine_faults_total", faults] == 4
    cached = [frozenset({("engine", "default"), ("kind", kind)}) for kind in ("instances", "entities")]
    assert [found["bridge_engine_cache_bytes", labels] for labels in cached] == [1000, 2000]
    assert found["bridge_events_refused_total", frozenset({("engine", "default")})] == 3
    assert found["bridge_unknown_names_total", frozenset({("engine", "default"), ("kind", "target")})] == 3
    assert found["bridge_worker_stuck_pools", frozenset({("engine", "default")})] == 2
    assert found["bridge_info", frozenset({("version", "1.2"), ("config", "abc")})] == 1
    assert "version=0.0.4" in CONTENT_TYPE


def test_instances_and_workers_are_exported() -> None:
    engine, workflows = Engine(), Workflows()
    engine.requests["start", "ok"] = Histogram(SECONDS)
    engine.requests["start", "ok"].observe(0.02)
    workflows.orchestrations["order_saga", "failed"] = Histogram(LONG_SECONDS)
    workflows.orchestrations["order_saga", "failed"].observe(700)
    workflows.activities["charge", "completed"] = Histogram(LONG_SECONDS)
    text = Metrics(list, lambda: [engine], workflows=lambda: workflows, version="", config="").render()
    found = samples(text)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    default = {"engine": "default"}
    assert value("bridge_instances", **default, orchestration="order_saga", status="running") == 7
    assert value("bridge_instances_finished_total", **default, orchestration="order_saga", status="failed") == 8
    assert value("bridge_failures_omitted_total", **default) == 9
    assert value("bridge_worker_processes", **default, state="running") == 2
    assert value("bridge_worker_process_ends_total", **default, cause="SIGKILL") == 3
    assert value("bridge_worker_process_items", **default) == 11
    assert value("bridge_engine_actions_total", **default, route="start", kind="start") == 5
    assert value("bridge_engine_actions_total", **default, route="", kind="timer") == 6
    request = default | {"command": "start", "result": "ok"}
    assert value("bridge_engine_request_seconds_bucket", **request, le="0.01") == 0
    assert value("bridge_engine_request_seconds_bucket", **request, le="0.025") == 1
    assert value("bridge_sagas_total", saga="checkout", outcome="compensated") == 2
    orchestration = {"orchestration": "order_saga", "status": "failed"}
    assert value("bridge_orchestration_seconds_bucket", **orchestration, le="600.0") == 0
    assert value("bridge_orchestration_seconds_bucket", **orchestration, le="3600.0") == 1
    assert value("bridge_activity_seconds_count", activity="charge", result="completed") == 0
    assert (value("bridge_sessions"), value("bridge_replays_total")) == (3, 4)


def test_numbers_are_read_at_every_scrape() -> None:
    sources = [Stats()]
    metrics = Metrics(lambda: sources, list, version="", config="")
    key = ("bridge_received_total", frozenset({("source", "orders")}))
    assert samples(metrics.render())[key] == 0
    sources[0].received = 7
    assert samples(metrics.render())[key] == 7
    sources.clear()
    assert key not in samples(metrics.render())


def test_dropped_repeats() -> None:
    found = samples(Metrics(list, list, None, lambda: {"inbox": 3, "entity": 0}, version="", config="").render())
    assert found["bridge_repeats_dropped_total", frozenset({("by", "inbox")})] == 3
    assert found["bridge_repeats_dropped_total", frozenset({("by", "entity")})] == 0


def test_refused_connections() -> None:
    refused = {"ops": {"full": 2, "late": 1}, "control": {"full": 0}}
    found = samples(Metrics(list, list, refused=lambda: refused, version="", config="").render())
    name = "bridge_connections_refused_total"
    assert found[name, frozenset({("port", "ops"), ("cause", "full")})] == 2
    assert found[name, frozenset({("port", "control"), ("cause", "full")})] == 0


def test_readiness() -> None:
    checks = (Check("source", "orders", SourceState.STUCK), Check("engine", "default", EngineState.UP))
    answers = iter((Readiness(DaemonState.RUNNING, checks), Readiness(DaemonState.RUNNING, checks[1:])))
    metrics = Metrics(list, list, readiness=lambda: next(answers), version="", config="")
    found = samples(metrics.render())
    assert found["bridge_ready", frozenset()] == 0
    states = {
        (labels["kind"], labels["name"], labels["state"]): value
        for (name, given) in found
        if name == "bridge_component_state"
        for labels, value in [(dict(given), found[name, given])]
    }
    assert {state for state, value in states.items() if value} == {
        ("source", "orders", "stuck"),
        ("engine", "default", "up"),
    }
    assert {state for kind, _, state in states if kind == "source"} == set(SourceState)
    assert samples(metrics.render())["bridge_ready", frozenset()] == 1
    assert ("bridge_ready", frozenset()) not in samples(Metrics(list, list, version="", config="").render())


def test_metrics_of_the_process_are_those_of_the_library() -> None:
    found = samples(Metrics(list, list, process=ProcessCollector(registry=None), version="", config="").render())
    assert found["process_resident_memory_bytes", frozenset()] > 0


def test_two_bridges_in_one_process_do_not_meet() -> None:
    first, second = (Metrics(list, list, version=version, config="") for version in ("1", "2"))
    assert b'version="2"' not in first.render()
    assert b'version="2"' in second.render()
    assert b"python_info" not in first.render()


def test_values_are_counted_and_never_named() -> None:
    shares = shares_of(1, 1, 100, 100, 1)
    limits = [Limit(values=(8, 9)), Limit("free")]
    metrics = Metrics(lambda: [Stats(shares=shares), Stats("free")], list, limits=limits, version="1", config="c")
    for value in ("acme", "umbrella"):
        for _ in range(2):
            message = Message(b"12345")
            shares.join(value, InFlightDelivery(Delivery(message), None, None, 0.0))  # type: ignore[arg-type]  # as much as is read
    text = metrics.render()
    found = samples(text)
    orders, start = frozenset({("source", "orders")}), frozenset({("route", "start")})
    assert found["bridge_values", orders] == 1
    assert found["bridge_value_waiting", orders] == 2
    assert found["bridge_value_waiting_bytes", orders] == 2 * Message(b"12345").size
    assert found["bridge_value_overflows_total", orders] == 2
    assert (found["bridge_route_values", start], found["bridge_route_value_overflows_total", start]) == (8, 9)
    assert ("bridge_values", frozenset({("source", "free")})) not in found
    assert ("bridge_route_values", frozenset({("route", "free")})) not in found
    assert b"acme" not in text


@dataclass
class Delivery:
    message: Message


def test_odd_names_stay_inside_their_quotes() -> None:
    text = Metrics(lambda: [Stats('a"\n\\b')], list, version="", config="").render()
    assert ("bridge_received_total", frozenset({("source", 'a"\n\\b')})) in samples(text)


def test_limits_are_told_by_route_and_only_where_they_are() -> None:
    limits = [Limit(), Limit("free", None, None, 0, 9)]
    found = samples(Metrics(list, list, limits=limits, version="1", config="c").render())
    start, free = frozenset({("route", "start")}), frozenset({("route", "free")})
    assert found["bridge_route_running", start] == 3
    assert found["bridge_route_running_limit", start] == 5
    assert found["bridge_route_waiting", start] == 7
    assert found["bridge_route_delayed_total", start] == 2
    assert found["bridge_route_delayed_total", free] == 9
    assert ("bridge_route_running", free) not in found


@dataclass
class Waiting:
    name: str = "default"
    events: dict[str, int] = field(default_factory=lambda: {"stored": 3, "delivered": 2})
    quarantined: dict[str, int] = field(default_factory=lambda: {"stored": 1})
    waiting: int | None = 1
    expiring: int | None = 0
    waiting_messages: int = 5
    waiting_bytes: int = 600
    refused: int = 7
    replayed: dict[str, int] = field(default_factory=lambda: {"succeeded": 6})


def test_what_waits() -> None:
    uncounted = Waiting("eu", {}, {}, None, None)
    metrics = Metrics(
        lambda: [Stats(quarantined_keys=4)], list, waiting=lambda: [Waiting(), uncounted],
        late_dead_letters=lambda: {("orders", "early_expired"): 5}, version="", config="",
    )  # fmt: skip
    found = samples(metrics.render())

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))

    assert value("bridge_early_messages", engine="default") == 1
    assert value("bridge_early_messages", engine="eu") is None
    assert value("bridge_early_messages_expiring", engine="default") == 0
    assert value("bridge_early_messages_expiring", engine="eu") is None
    assert value("bridge_waiting_messages", engine="default") == 5
    assert value("bridge_waiting_bytes", engine="default") == 600
    assert value("bridge_waiting_refused_total", engine="default") == 7
    assert value("bridge_early_message_events_total", engine="default", event="delivered") == 2
    assert value("bridge_quarantine_events_total", engine="default", event="stored") == 1
    assert value("bridge_replay_events_total", engine="default", event="succeeded") == 6
    assert value("bridge_late_dead_letters_total", source="orders", reason="early_expired") == 5
    assert value("bridge_quarantined_keys", source="orders") == 4


@dataclass
class Wide(Stats):
    """A source with as many partitions as are asked for."""

    wide: int = 0

    def partitions(self) -> Iterable[tuple[str, int, int, int]]:
        return [("orders", number, number, 7) for number in range(self.wide)]


@pytest.mark.parametrize(("sources", "partitions"), [(500, 4), (1, 30_000)])
async def test_a_scrape_holds_nothing_up(sources: int, partitions: int) -> None:
    """No callback of the event loop takes more than 250 ms of its thread, and the text is the same."""
    stats = [Wide(f"s{number}", received=number, wide=partitions) for number in range(sources)]
    for each in stats:
        each.outcomes = dict.fromkeys(("executed", "duplicate", "ignored", "early", "quarantined", "dead_lettered"), 1)
        each.dead_letters = dict.fromkeys((f"reason_{at}" for at in range(10)), 1)
        each.commands = dict.fromkeys(((f"route_{at}", "schedule") for at in range(10)), 1)
    metrics = Metrics(lambda: stats, list, version="1", config="c")
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        since = time.thread_time()
        while not done.is_set():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, since = max(longest, now - since), now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    texts = await asyncio.gather(metrics.scrape(), metrics.scrape())
    done.set()
    await watching
    assert texts == [metrics.render()] * 2  # type: ignore[comparison-overlap]  # wider than its annotation, on purpose
    assert longest < 0.25


async def test_figures_of_one_scrape_agree() -> None:
    """Though others go on between two sources: received is always outcomes, abandoned and in flight together."""
    stats = [Stats(f"s{number}", outcomes={"executed": 0}) for number in range(500)]
    metrics = Metrics(lambda: stats, list, version="1", config="c")
    scrape = asyncio.create_task(metrics.scrape())
    while not scrape.done():
        for each in stats:
            each.received += 1
            each.outcomes["executed"] += 1
        await asyncio.sleep(0)
    found = samples(await scrape)
    for each in stats:
        executed = found["bridge_outcomes_total", frozenset({("source", each.name), ("outcome", "executed")})]
        assert found["bridge_received_total", frozenset({("source", each.name)})] == executed
