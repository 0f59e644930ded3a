"""Prometheus metrics, read from counters at scrape time: a message costs no metric call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HistogramLike(Protocol):
    """Protocol of a histogram.

    bounds: inclusive upper bounds in seconds.
    counts: number per bound and one above the last bound, not cumulative.
    """

    @property
    def bounds(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def total(self) -> float: ...


class SourceStats(Protocol):
    """Counts of one source since the process started, read on the event loop's thread.

    outcomes, dead_letters, abandoned: by outcome or reason.
    commands: by (route, command).
    in_flight: received and not settled.
    queued: in flight and waiting for a worker.
    held: an outage stops the source.
    probing: its dead letters exceed the limit.
    quarantined_keys: quarantined keys that this process knows.
    processing: seconds from receipt to settlement.
    end_to_end: seconds from the broker's timestamp to settlement.
    """

    @property
    def name(self) -> str: ...
    @property
    def received(self) -> int: ...
    @property
    def outcomes(self) -> Mapping[str, int]: ...
    @property
    def dead_letters(self) -> Mapping[str, int]: ...
    @property
    def unreadable(self) -> Mapping[tuple[str, int, str], int]:
        """Deliveries that could not be parsed, by topic, partition and fault."""
        ...

    @property
    def abandoned(self) -> Mapping[str, int]: ...
    @property
    def commands(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def retries(self) -> int: ...

    @property
    def bugs(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def in_flight_bytes(self) -> int: ...
    @property
    def unloaded(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def locks_lost(self) -> int: ...
    @property
    def held(self) -> bool: ...
    @property
    def probing(self) -> bool: ...
    @property
    def dead_letter_pauses(self) -> Mapping[str, float]: ...
    @property
    def quarantined_keys(self) -> int: ...
    @property
    def shares(self) -> ShareStats | None: ...
    @property
    def processing(self) -> HistogramLike: ...
    @property
    def end_to_end(self) -> HistogramLike: ...

    @property
    def rebalances(self) -> int: ...
    @property
    def skipped(self) -> int: ...

    @property
    def gaps(self) -> Mapping[str, int]:
        """Offsets passed that hold no message, by kind."""
        ...

    @property
    def reconnects(self) -> int: ...
    @property
    def renewals(self) -> int: ...

    @property
    def commits(self) -> tuple[int, float]:
        """Number of commits, and their total seconds."""
        ...

    def partitions(self) -> Iterable[tuple[str, int, int, int | None]]:
        """Per assigned partition: topic, number, uncommitted records, lag if known."""
        ...


class ShareStats(Protocol):
    """Limits of a source per value.

    records, size: records and bytes that wait for others of their value.
    values: values with limits of their own, and the number of times that one had to share.
    """

    @property
    def records(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def values(self) -> ValueTable: ...


class ValueTable(Protocol):
    """Number of values with limits of their own. overflows: number of times that a value had to share."""

    def __len__(self) -> int: ...
    @property
    def overflows(self) -> int: ...


class EngineUsage(Protocol):
    """Memory of an engine in bytes, number of refused events (one too many for their instance), and lineage records."""

    @property
    def instance_bytes(self) -> int: ...
    @property
    def entity_bytes(self) -> int: ...
    @property
    def events_refused(self) -> int: ...
    @property
    def lineage_records(self) -> int: ...


class EngineStats(Protocol):
    """State of an engine.

    up: its breaker is closed.
    durable: acknowledged work survives the process.
    incompatible: instances that failed because their code was changed while they ran, by orchestration.
    unknown: calls and publishes of orchestrations under names that nothing registers, by kind.
    faults: operations that could not be applied and were given up, by kind.
    stuck: pools of worker threads of this process that cannot work.
    usage: memory of an engine that this process hosts; None of others.
    """

    @property
    def name(self) -> str: ...
    @property
    def up(self) -> bool: ...
    @property
    def durable(self) -> bool: ...
    @property
    def incompatible(self) -> Mapping[str, int]: ...
    @property
    def unknown(self) -> Mapping[str, int]: ...
    @property
    def faults(self) -> Mapping[str, int]: ...
    @property
    def stuck(self) -> int: ...
    @property
    def usage(self) -> EngineUsage | None: ...


class PublishStats(Protocol):
    """Counts of publications by target. published: accepted by the broker. failed: not accepted."""

    @property
    def published(self) -> Mapping[str, int]: ...

    @property
    def failed(self) -> Mapping[str, int]: ...


class LimitStats(Protocol):
    """Limits of one route.

    running: most running orchestrations; None: no limit.
    running_instances: running orchestrations, as counted.
    waiting: queued starts.
    delayed: commands that had to wait for a rate so far.
    values: number of values with limits of their own, and of times that one had to share; None without limits per
    value.
    """

    @property
    def route(self) -> str: ...
    @property
    def running(self) -> int | None: ...
    @property
    def running_instances(self) -> Sized | None: ...
    @property
    def waiting(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def values(self) -> tuple[int, int] | None: ...


class WaitingStats(Protocol):
    """Early and quarantined messages on one engine.

    events: events of early messages in this process, by event.
    quarantined: events of quarantined messages in this process, by event.
    waiting: early messages as last counted; None before the first count.
    waiting_messages, waiting_bytes: early and quarantined messages together.
    refused: messages that were one too many.
    """

    @property
    def name(self) -> str: ...
    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def quarantined(self) -> Mapping[str, int]: ...
    @property
    def waiting(self) -> int | None: ...
    @property
    def waiting_messages(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def refused(self) -> int: ...


_SLICE = 0.005
"""Seconds of the event loop's thread after which a scrape lets others go on."""


class Metrics:
    """Prometheus metrics with their own registry: several bridges in one process do not collide."""

    def __init__(
        self,
        sources: Callable[[], Iterable[SourceStats]],
        engines: Callable[[], Iterable[EngineStats]],
        publishing: PublishStats | None = None,
        repeats: Callable[[], Mapping[str, int]] = dict,
        limits: Sequence[LimitStats] = (),
        waiting: Callable[[], Iterable[WaitingStats]] = tuple,
        late_letters: Callable[[], Mapping[tuple[str, str], int]] = dict,
        clock_jumps: Callable[[], Mapping[str, int]] = dict,
        answers: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        refused: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        *,
        version: str,
        config: str,
    ) -> None:
        """Create the metrics.

        sources, engines, waiting: called at every scrape.
        publishing: None where no workflow runs.
        repeats: duplicates that workflows have dropped, by the part that dropped them.
        limits: limits of the routes that have some.
        late_letters: dead letters of early and quarantined messages, by source and reason.
        clock_jumps: steps of the wall clock, by direction.
        answers: answers to requests, by engine and result.
        refused: refused connections, by port and cause.
        version: version of the bridge.
        config: version of its configuration.
        """
        self._sources = sources
        self._others = _Others(
            engines,
            publishing,
            repeats,
            limits,
            waiting,
            late_letters,
            clock_jumps,
            answers,
            refused,
            version,
            config,
        )
        self._scrape = asyncio.Lock()

    def render(self) -> bytes:
        """Render the text exposition format (`CONTENT_TYPE`)."""
        return _text([_read(source) for source in self._sources()], list(self._others.collect()))

    async def scrape(self) -> bytes:
        """Render as `render` does, and let the event loop go on, however many sources and partitions there are.

        The figures of one source belong to one moment. One thread turns the figures of all sources into text.
        """
        async with self._scrape:
            figures = []
            since = time.thread_time()
            for source in list(self._sources()):
                figures.append(_read(source))
                if time.thread_time() - since > _SLICE:
                    await asyncio.sleep(0)
                    since = time.thread_time()
            return await asyncio.to_thread(_text, figures, list(self._others.collect()))


_Rows = Iterable[tuple[Sequence[str], float]]
_Counter = tuple[str, str, tuple[str, ...], Callable[[SourceStats], _Rows]]


def _single(read: Callable[[SourceStats], float]) -> Callable[[SourceStats], _Rows]:
    return lambda source: (((), read(source)),)


def _of_shares(read: Callable[[ShareStats], float]) -> Callable[[SourceStats], _Rows]:
    """Reader of a number of sources with limits per value."""
    return lambda source: () if source.shares is None else (((), read(source.shares)),)


def _by_word(read: Callable[[SourceStats], Mapping[str, int]]) -> Callable[[SourceStats], _Rows]:
    return lambda source: [((word,), count) for word, count in read(source).items()]


_COUNTERS: tuple[_Counter, ...] = (
    ("bridge_received", "Deliveries received.", (), _single(lambda source: source.received)),
    ("bridge_outcomes", "Deliveries settled, by outcome.", ("outcome",), _by_word(lambda source: source.outcomes)),
    ("bridge_dead_letters", "Dead letters, by reason.", ("reason",), _by_word(lambda source: source.dead_letters)),
    (
        "bridge_unreadable_messages",
        "Deliveries that the broker's client library could not parse.",
        ("topic", "partition", "fault"),
        lambda source: [((topic, str(part), fault), n) for (topic, part, fault), n in source.unreadable.items()],
    ),
    (
        "bridge_abandoned",
        "Deliveries released unsettled, by reason; the broker redelivers them.",
        ("reason",),
        _by_word(lambda source: source.abandoned),
    ),
    ("bridge_retries", "Failed attempts that are repeated.", (), _single(lambda source: source.retries)),
    ("bridge_bugs", "Attempts that failed with an unexpected exception.", (), _single(lambda source: source.bugs)),
    (
        "bridge_locks_lost",
        "Locks that expired before their delivery was settled.",
        (),
        _single(lambda source: source.locks_lost),
    ),
    ("bridge_rebalances", "Rebalances of the consumer group.", (), _single(lambda source: source.rebalances)),
    (
        "bridge_skipped",
        "Records skipped because the broker no longer had them.",
        (),
        _single(lambda source: source.skipped),
    ),
    (
        "bridge_offset_gaps",
        "Offsets passed that hold no message for a consumer.",
        ("kind",),
        _by_word(lambda source: source.gaps),
    ),
    (
        "bridge_value_overflows",
        "Deliveries whose value shared its limits (limits.per.max_values).",
        (),
        _of_shares(lambda shares: shares.values.overflows),
    ),
    ("bridge_reconnects", "Receivers replaced after a fault.", (), _single(lambda source: source.reconnects)),
    ("bridge_lock_renewals", "Renewed locks.", (), _single(lambda source: source.renewals)),
    ("bridge_commits", "Commits of positions.", (), _single(lambda source: source.commits[0])),
    (
        "bridge_commit_seconds",
        "Total duration of commits in seconds.",
        (),
        _single(lambda source: source.commits[1]),
    ),
    (
        "bridge_commands",
        "Commands that an engine accepted.",
        ("route", "command"),
        lambda source: list(source.commands.items()),
    ),
)
_GAUGES: tuple[_Counter, ...] = (
    ("bridge_in_flight", "Deliveries that are received and not settled.", (), _single(lambda source: source.in_flight)),
    (
        "bridge_in_flight_bytes",
        "Bytes of deliveries that are received and not settled.",
        (),
        _single(lambda source: source.in_flight_bytes),
    ),
    (
        "bridge_unloaded",
        "Deliveries in flight that wait for the dead-letter limit without body and headers in memory.",
        (),
        _single(lambda source: source.unloaded),
    ),
    ("bridge_queued", "Deliveries that wait for their turn.", (), _single(lambda source: source.queued)),
    (
        "bridge_value_waiting",
        "Deliveries that wait for others of their value (limits.per).",
        (),
        _of_shares(lambda shares: shares.records),
    ),
    (
        "bridge_value_waiting_bytes",
        "Bytes of deliveries that wait for others of their value.",
        (),
        _of_shares(lambda shares: shares.size),
    ),
    (
        "bridge_values",
        "Values with their own limits (limits.per).",
        (),
        _of_shares(lambda shares: len(shares.values)),
    ),
    (
        "bridge_quarantined_keys",
        "Keys in quarantine, as this process knows them.",
        (),
        _single(lambda source: source.quarantined_keys),
    ),
    ("bridge_held", "1 while an outage holds the source.", (), _single(lambda source: source.held)),
    (
        "bridge_probing",
        "1 while the source probes: its dead letters exceed the limit.",
        (),
        _single(lambda source: source.probing),
    ),
    (
        "bridge_dead_letter_pause_seconds",
        "Pause between two dead letters of a route beyond the limit; route is empty for messages without one.",
        ("route",),
        lambda source: [((route,), pause) for route, pause in source.dead_letter_pauses.items()],
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SourceStats], HistogramLike]], ...] = (
    ("bridge_processing_seconds", "From receipt to settlement.", lambda source: source.processing),
    ("bridge_end_to_end_seconds", "From the broker's timestamp to settlement.", lambda source: source.end_to_end),
)


@dataclass(frozen=True, slots=True)
class _Figures:
    """Counts of one source at one moment. rows: of each of `_COUNTERS` and `_GAUGES`. partitions: see
    `SourceStats`. histograms: cumulative counts and the sum, of each of `_HISTOGRAMS`.
    """

    name: str
    counters: list[list[tuple[Sequence[str], float]]]
    gauges: list[list[tuple[Sequence[str], float]]]
    partitions: list[tuple[str, int, int, int | None]]
    histograms: list[tuple[list[tuple[str, float]], float]]


def _read(source: SourceStats) -> _Figures:
    histograms = [histogram_of(source) for _, _, histogram_of in _HISTOGRAMS]
    return _Figures(
        source.name,
        [list(read(source)) for *_, read in _COUNTERS],
        [list(read(source)) for *_, read in _GAUGES],
        list(source.partitions()),
        [(_buckets(histogram), histogram.total) for histogram in histograms],
    )


class _Families(Collector):
    """Metrics that are made already, as the library takes them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _text(sources: Sequence[_Figures], others: Sequence[Metric]) -> bytes:
    return generate_latest(_Families([*_families(sources), *others]))


def _families(sources: Sequence[_Figures]) -> Iterator[Metric]:
    for at, (name, text, labels, _) in enumerate(_COUNTERS):
        counter = CounterMetricFamily(name, text, labels=("source", *labels))
        for source in sources:
            for values, number in source.counters[at]:
                counter.add_metric((source.name, *values), number)
        yield counter
    for at, (name, text, labels, _) in enumerate(_GAUGES):
        gauge = GaugeMetricFamily(name, text, labels=("source", *labels))
        for source in sources:
            for values, number in source.gauges[at]:
                gauge.add_metric((source.name, *values), float(number))
        yield gauge
    labels = ("source", "topic", "partition")
    uncommitted = GaugeMetricFamily(
        "bridge_uncommitted_records", "Records received since the last offset that can be committed.", labels=labels
    )
    lag = GaugeMetricFamily("bridge_lag", "Records of a partition that are not completed.", labels=labels)
    for source in sources:
        for topic, partition, above, behind in source.partitions:
            uncommitted.add_metric((source.name, topic, str(partition)), above)
            if behind is not None:
                lag.add_metric((source.name, topic, str(partition)), behind)
    yield uncommitted
    yield lag
    for at, (name, text, _) in enumerate(_HISTOGRAMS):
        family = HistogramMetricFamily(name, text, labels=("source",))
        for source in sources:
            buckets, total = source.histograms[at]
            family.add_metric((source.name,), buckets, total)
        yield family


class _Others:
    """Metrics of everything but sources."""

    def __init__(
        self,
        engines: Callable[[], Iterable[EngineStats]],
        publishing: PublishStats | None,
        repeats: Callable[[], Mapping[str, int]],
        limits: Sequence[LimitStats],
        waiting: Callable[[], Iterable[WaitingStats]],
        late_letters: Callable[[], Mapping[tuple[str, str], int]],
        clock_jumps: Callable[[], Mapping[str, int]],
        answers: Callable[[], Mapping[str, Mapping[str, int]]],
        refused: Callable[[], Mapping[str, Mapping[str, int]]],
        version: str,
        config: str,
    ) -> None:
        self._engines = engines
        self._publishing = publishing
        self._waiting = waiting
        self._late_letters = late_letters
        self._clock_jumps = clock_jumps
        self._answers = answers
        self._refused = refused
        self._repeats = repeats
        self._limits = limits
        self._info = (version, config)

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_engines()
        if self._publishing is not None:
            yield _by("target", "bridge_published", "Messages published, by target.", self._publishing.published)
            yield _by("target", "bridge_publish_failures", "Publishes that failed, by target.", self._publishing.failed)
        yield from self._collect_waiting()
        yield _by_two(("engine", "result"), "bridge_answers", "Answers to requests, by result.", self._answers())
        yield _by_two(
            ("port", "cause"), "bridge_connections_refused", "Connections refused, by cause.", self._refused()
        )
        yield _by(
            "by",
            "bridge_repeats_dropped",
            "Repeated messages that workflows dropped, by the part that dropped them.",
            self._repeats(),
        )
        yield _by("direction", "bridge_clock_jumps", "Steps of the wall clock, by direction.", self._clock_jumps())
        yield from self._collect_limits()
        info = GaugeMetricFamily("bridge_info", "Always 1.", labels=("version", "config"))
        info.add_metric(self._info, 1)
        yield info

    def _collect_limits(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("bridge_route_running", "Running orchestrations, as counted.", labels=("route",))
        cap = GaugeMetricFamily("bridge_route_running_limit", "Limit of running orchestrations.", labels=("route",))
        waiting = GaugeMetricFamily(
            "bridge_route_waiting", "Starts that wait for the limit of running orchestrations.", labels=("route",)
        )
        delayed = CounterMetricFamily(
            "bridge_route_delayed", "Commands that waited for the rate limit.", labels=("route",)
        )
        values = GaugeMetricFamily(
            "bridge_route_values", "Values with their own limits (limits.per).", labels=("route",)
        )
        overflows = CounterMetricFamily(
            "bridge_route_value_overflows",
            "Commands whose value shared its limits (limits.per.max_values).",
            labels=("route",),
        )
        for limit in self._limits:
            if limit.running_instances is not None:
                running.add_metric((limit.route,), len(limit.running_instances))
                waiting.add_metric((limit.route,), limit.waiting)
            if limit.running is not None:
                cap.add_metric((limit.route,), limit.running)
            delayed.add_metric((limit.route,), limit.delayed)
            if limit.values is not None:
                values.add_metric((limit.route,), limit.values[0])
                overflows.add_metric((limit.route,), limit.values[1])
        yield from (running, cap, waiting, delayed, values, overflows)

    def _collect_engines(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("bridge_engine_up", "1 while the engine answers.", labels=("engine",))
        durable = GaugeMetricFamily(
            "bridge_engine_durable", "1 if acknowledged work survives a crash.", labels=("engine",)
        )
        incompatible = CounterMetricFamily(
            "bridge_incompatible",
            "Instances that failed because their code was changed while they ran.",
            labels=("engine", "orchestration"),
        )
        unknown = CounterMetricFamily(
            "bridge_unknown_names",
            "Calls and publishes of orchestrations under names that nothing registers, by kind.",
            labels=("engine", "kind"),
        )
        faults = CounterMetricFamily(
            "bridge_engine_faults",
            "Operations that the engine could not apply and gave up, by kind.",
            labels=("engine", "kind"),
        )
        stuck = GaugeMetricFamily(
            "bridge_worker_stuck_pools", "Pools of worker threads that cannot work.", labels=("engine",)
        )
        cache = GaugeMetricFamily(
            "bridge_engine_cache_bytes", "Bytes that the hosted engine keeps in memory.", labels=("engine", "kind")
        )
        refused = CounterMetricFamily(
            "bridge_events_refused",
            "Events refused because their instance has too many unread ones.",
            labels=("engine",),
        )
        records = GaugeMetricFamily(
            "bridge_lineage_records", "Dead letters and signals in the lineage index.", labels=("engine",)
        )
        for engine in self._engines():
            stuck.add_metric((engine.name,), engine.stuck)
            for kind, count in engine.faults.items():
                faults.add_metric((engine.name, kind), count)
            if (usage := engine.usage) is not None:
                cache.add_metric((engine.name, "instances"), usage.instance_bytes)
                cache.add_metric((engine.name, "entities"), usage.entity_bytes)
                refused.add_metric((engine.name,), usage.events_refused)
                records.add_metric((engine.name,), usage.lineage_records)
            for kind, count in engine.unknown.items():
                unknown.add_metric((engine.name, kind), count)
            for orchestration, count in engine.incompatible.items():
                incompatible.add_metric((engine.name, orchestration), count)
            up.add_metric((engine.name,), engine.up)
            durable.add_metric((engine.name,), engine.durable)
        yield up
        yield durable
        yield from (incompatible, unknown, faults, stuck, cache, refused, records)

    def _collect_waiting(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "bridge_early_messages", "Messages that wait for the start of their instance.", labels=("engine",)
        )
        early = CounterMetricFamily(
            "bridge_early_message_events", "Events of early messages in this process.", labels=("engine", "event")
        )
        quarantined = CounterMetricFamily(
            "bridge_quarantine_events", "Events of quarantined messages in this process.", labels=("engine", "event")
        )
        messages = GaugeMetricFamily(
            "bridge_waiting_messages",
            "Messages that wait on the engine, early and quarantined ones.",
            labels=("engine",),
        )
        size = GaugeMetricFamily(
            "bridge_waiting_bytes", "Bytes of early and quarantined messages on the engine.", labels=("engine",)
        )
        refused = CounterMetricFamily(
            "bridge_waiting_refused", "Messages dead-lettered because too many waited.", labels=("engine",)
        )
        for each in self._waiting():
            messages.add_metric((each.name,), each.waiting_messages)
            size.add_metric((each.name,), each.waiting_bytes)
            refused.add_metric((each.name,), each.refused)
            if each.waiting is not None:
                waiting.add_metric((each.name,), each.waiting)
            for family, events in ((early, each.events), (quarantined, each.quarantined)):
                for event, count in events.items():
                    family.add_metric((each.name, event), count)
        letters = CounterMetricFamily(
            "bridge_late_dead_letters",
            "Dead letters of early and quarantined messages, by reason.",
            labels=("source", "reason"),
        )
        for values, count in self._late_letters().items():
            letters.add_metric(values, count)
        yield from (messages, size, refused)
        yield waiting
        yield early
        yield quarantined
        yield letters


def _by(label: str, name: str, text: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _buckets(histogram: HistogramLike) -> list[tuple[str, float]]:
    """Cumulative bucket counts, as in the exposition format."""
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, count in zip(
        (*(repr(float(bound)) for bound in histogram.bounds), "+Inf"), histogram.counts, strict=True
    ):
        running += count
        buckets.append((bound, running))
    return buckets


def _by_two(labels: tuple[str, str], name: str, text: str, counts: Mapping[str, Mapping[str, int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for first, each in counts.items():
        for second, count in each.items():
            family.add_metric((first, second), count)
    return family
