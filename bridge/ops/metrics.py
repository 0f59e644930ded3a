"""Prometheus metrics, read from counters at scrape time: a message costs no metric call.

A metric is one row of a table: its type, name, text and labels, and the function that reads its values.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from bridge.core.states import STATES
from bridge.engines.base import EngineUsage
from bridge.ops.health import Readiness
from bridge.ops.metric_stats import (
    BudgetStats,
    DeadLetterStats,
    EngineStats,
    EventStats,
    HistogramLike,
    JobStats,
    LimitStats,
    PublishStats,
    ReloadStats,
    SourceStats,
    TraceStats,
    WaitingStats,
    WorkflowStats,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


_SLICE = 0.005
"""Seconds of the event loop's thread after which a scrape lets others go on."""


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """Figures of the process. publishing, workflows: None where it has none. The others are called at every scrape."""

    publishing: PublishStats | None
    repeats: Callable[[], Mapping[str, int]]
    late_dead_letters: Callable[[], Mapping[tuple[str, str], int]]
    clock_jumps: Callable[[], Mapping[str, int]]
    answers: Callable[[], Mapping[str, Mapping[str, int]]]
    refused: Callable[[], Mapping[str, Mapping[str, int]]]
    workflows: Callable[[], WorkflowStats] | None
    info: Callable[[], tuple[str, str]]
    candidate: Callable[[], tuple[str, Mapping[str, int]]] = lambda: ("", {})


S = TypeVar("S")
V = TypeVar("V")
LabelValues = Iterable[tuple[Sequence[str], Any]]
"""Values of further labels, and the number or histogram."""


@dataclass(frozen=True, slots=True)
class _Row(Generic[S]):
    """One metric of each subject.

    labels: further labels. read: values of one subject.
    """

    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    name: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[S], LabelValues]


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


def _one(read: Callable[[S], Any]) -> Callable[[S], LabelValues]:
    """Reader of one value; None leaves the metric out."""

    def values(subject: S) -> LabelValues:
        value = read(subject)
        return () if value is None else (((), value),)

    return values


def _cached(usage: EngineUsage) -> Mapping[str, int]:
    return {"instances": usage.instance_bytes, "entities": usage.entity_bytes}


def _optional(value: S | None, read: Callable[[S], V]) -> V | None:
    return None if value is None else read(value)


def _by_word(read: Callable[[S], Mapping[str, Any] | None]) -> Callable[[S], LabelValues]:
    return lambda subject: [((word,), value) for word, value in (read(subject) or {}).items()]


def _by_words(read: Callable[[S], Mapping[tuple[str, str], Any] | None]) -> Callable[[S], LabelValues]:
    return lambda subject: list((read(subject) or {}).items())


def _nested(read: Callable[[S], Mapping[str, Mapping[str, int]]]) -> Callable[[S], LabelValues]:
    return lambda subject: [((one, two), n) for one, each in read(subject).items() for two, n in each.items()]


def _states(readiness: Readiness) -> LabelValues:
    return [
        ((check.kind, check.name, state), state == check.state)
        for check in readiness.checks
        for state in STATES[check.kind]
    ]


_SOURCES: tuple[_Row[SourceStats], ...] = (
    _Row(_COUNTER, "bridge_received", "Deliveries received.", (), _one(lambda it: it.received)),
    _Row(_COUNTER, "bridge_outcomes", "Deliveries settled, by outcome.", ("outcome",),
        _by_word(lambda it: it.outcomes)),
    _Row(_COUNTER, "bridge_dead_letters", "Dead letters, by reason.", ("reason",),
        _by_word(lambda it: it.dead_letters)),
    _Row(_COUNTER, "bridge_unreadable_messages", "Deliveries that the broker's client library could not parse.",
        ("topic", "partition", "fault"),
        lambda it: [((topic, str(part), fault), n) for (topic, part, fault), n in it.unreadable.items()]),
    _Row(_COUNTER, "bridge_abandoned", "Deliveries released unsettled, by reason; the broker redelivers them.",
        ("reason",), _by_word(lambda it: it.abandoned)),
    _Row(_COUNTER, "bridge_retries", "Failed attempts that are repeated.", (), _one(lambda it: it.retries)),
    _Row(_COUNTER, "bridge_bugs", "Attempts that failed with an unexpected exception.", (), _one(lambda it: it.bugs)),
    _Row(_COUNTER, "bridge_locks_lost", "Locks that expired before their delivery was settled.", (),
        _one(lambda it: it.locks_lost)),
    _Row(_COUNTER, "bridge_rebalances", "Rebalances of the consumer group.", (), _one(lambda it: it.rebalances)),
    _Row(_COUNTER, "bridge_seeks", "Partitions whose position a person has moved.", (), _one(lambda it: it.seeks)),
    _Row(_COUNTER, "bridge_skipped", "Records skipped because the broker no longer had them.", (),
        _one(lambda it: it.skipped)),
    _Row(_COUNTER, "bridge_offset_gaps", "Offsets passed that hold no message for a consumer.", ("kind",),
        _by_word(lambda it: it.gaps)),
    _Row(_COUNTER, "bridge_value_overflows", "Deliveries whose value shared its limits (limits.per.max_values).", (),
        _one(lambda it: _optional(it.shares, lambda shares: shares.values.overflows))),
    _Row(_COUNTER, "bridge_reconnects", "Receivers replaced after a fault.", (), _one(lambda it: it.reconnects)),
    _Row(_COUNTER, "bridge_lock_renewals", "Renewed locks.", (), _one(lambda it: it.renewals)),
    _Row(_COUNTER, "bridge_commits", "Commits of positions.", (), _one(lambda it: it.commits[0])),
    _Row(_COUNTER, "bridge_commit_seconds", "Total duration of commits in seconds.", (),
        _one(lambda it: it.commits[1])),
    _Row(_COUNTER, "bridge_commands", "Commands that an engine accepted.", ("route", "command"),
        lambda it: list(it.commands.items())),
    _Row(_GAUGE, "bridge_in_flight", "Deliveries that are received and not settled.", (),
        _one(lambda it: it.in_flight)),
    _Row(_GAUGE, "bridge_in_flight_bytes", "Bytes of deliveries that are received and not settled.", (),
        _one(lambda it: it.in_flight_bytes)),
    _Row(_GAUGE, "bridge_unloaded",
        "Deliveries in flight that wait without body and headers in memory.", (),
        _one(lambda it: it.unloaded)),
    _Row(_GAUGE, "bridge_queued", "Deliveries that wait for their turn.", (), _one(lambda it: it.queued)),
    _Row(_GAUGE, "bridge_value_waiting", "Deliveries that wait for others of their value (limits.per).", (),
        _one(lambda it: _optional(it.shares, lambda shares: shares.records))),
    _Row(_GAUGE, "bridge_value_waiting_bytes", "Bytes of deliveries that wait for others of their value.", (),
        _one(lambda it: _optional(it.shares, lambda shares: shares.size))),
    _Row(_GAUGE, "bridge_values", "Values with their own limits (limits.per).", (),
        _one(lambda it: _optional(it.shares, lambda shares: len(shares.values)))),
    _Row(_GAUGE, "bridge_quarantined_keys", "Keys in quarantine, as this process knows them.", (),
        _one(lambda it: it.quarantined_keys)),
    _Row(_GAUGE, "bridge_held", "1 while an outage holds the whole source.", (), _one(lambda it: it.held)),
    _Row(_GAUGE, "bridge_outage_waiting_keys",
        "Ordering keys that wait for an engine while another engine of the source answers.", ("engine",),
        _by_word(lambda it: it.waiting_for_engines)),
    _Row(_GAUGE, "bridge_probing", "1 while the source probes: its dead letters exceed the limit.", (),
        _one(lambda it: it.probing)),
    _Row(_GAUGE, "bridge_dead_letter_pause_seconds",
        "Pause between two dead letters of a route beyond the limit; route is empty for messages without one.",
        ("route",), lambda it: [((route,), pause) for route, pause in it.dead_letter_pauses.items()]),
    _Row(_GAUGE, "bridge_uncommitted_records", "Records received since the last offset that can be committed.",
        ("topic", "partition"), lambda it: [((topic, str(part)), above) for topic, part, above, _ in it.partitions()]),
    _Row(_GAUGE, "bridge_lag", "Records of a partition that are not completed.", ("topic", "partition"),
        lambda it: [((topic, str(part)), behind) for topic, part, _, behind in it.partitions() if behind is not None]),
    _Row(_GAUGE, "bridge_oldest_unprocessed_seconds",
        "Age of the oldest record of a partition that is not completed, by the broker's time.", ("topic", "partition"),
        lambda it: [((topic, str(part)), seconds) for topic, part, seconds in it.ages()]),
    _Row(_HISTOGRAM, "bridge_processing_seconds", "From receipt to settlement.", (), _one(lambda it: it.processing)),
    _Row(_HISTOGRAM, "bridge_end_to_end_seconds", "From the broker's timestamp to settlement.", (),
        _one(lambda it: it.end_to_end)),
)  # fmt: skip
_ENGINES: tuple[_Row[EngineStats], ...] = (
    _Row(_GAUGE, "bridge_engine_up", "1 while the engine answers.", (), _one(lambda it: it.up)),
    _Row(_GAUGE, "bridge_engine_durable", "1 if acknowledged work survives a crash.", (), _one(lambda it: it.durable)),
    _Row(_COUNTER, "bridge_incompatible", "Instances that failed because their code was changed while they ran.",
        ("orchestration",), _by_word(lambda it: it.incompatible)),
    _Row(_COUNTER, "bridge_unknown_names",
        "Calls and publishes of orchestrations under names that nothing registers, by kind.", ("kind",),
        _by_word(lambda it: it.unknown)),
    _Row(_COUNTER, "bridge_engine_faults", "Operations that the engine could not apply and gave up, by kind.",
        ("kind",), _by_word(lambda it: it.faults)),
    _Row(_GAUGE, "bridge_worker_stuck_pools", "Pools of worker threads that cannot work.", (),
        _one(lambda it: it.stuck)),
    _Row(_GAUGE, "bridge_joined_worker_processes", "Processes of other workers that have joined the engine.", (),
        _one(lambda it: _optional(it.usage, lambda usage: len(usage.joined)))),
    _Row(_GAUGE, "bridge_joined_worker_process_items", "Work items that joined processes hold.", (),
        _one(lambda it: _optional(it.usage, lambda usage: sum(each.in_flight for each in usage.joined)))),
    _Row(_COUNTER, "bridge_joined_worker_process_ends", "Unexpected ends of joined processes, by cause.", ("cause",),
        _by_word(lambda it: _optional(it.usage, lambda usage: usage.joined_ends))),
    _Row(_GAUGE, "bridge_worker_processes", "Worker processes, by state.", ("state",),
        _by_word(lambda it: it.worker_processes)),
    _Row(_COUNTER, "bridge_worker_process_ends", "Unexpected ends of worker processes, by cause.", ("cause",),
        _by_word(lambda it: it.worker_ends)),
    _Row(_GAUGE, "bridge_worker_process_items", "Work items that worker processes hold.", (),
        _one(lambda it: it.worker_items if it.worker_processes else None)),
    _Row(_GAUGE, "bridge_engine_cache_bytes", "Bytes that the hosted engine keeps in memory.", ("kind",),
        _by_word(lambda it: _optional(it.usage, _cached))),
    _Row(_COUNTER, "bridge_events_refused", "Events refused because their instance has too many unread ones.", (),
        _one(lambda it: _optional(it.usage, lambda usage: usage.events_refused))),
    _Row(_GAUGE, "bridge_lineage_records", "Dead letters, signals and commands in the lineage index.", (),
        _one(lambda it: _optional(it.usage, lambda usage: usage.lineage_records))),
    _Row(_COUNTER, "bridge_lineage_rows", "Rows of the lineage index that the bridge writes to the engine, by event.",
        ("event",), _by_word(lambda it: _optional(it.lineage, lambda index: index.events))),
    _Row(_GAUGE, "bridge_lineage_rows_buffered", "Rows of the lineage index that wait for a write.", (),
        _one(lambda it: _optional(it.lineage, lambda index: index.buffered))),
    _Row(_GAUGE, "bridge_instances", "Instances on the engine, by orchestration and status.",
        ("orchestration", "status"), _by_words(lambda it: it.instances)),
    _Row(_COUNTER, "bridge_instances_finished", "Instances that ended, by orchestration and status.",
        ("orchestration", "status"), _by_words(lambda it: it.finished)),
    _Row(_COUNTER, "bridge_failures_omitted", "Failed instances and compensated sagas without a line in the log.", (),
        _one(lambda it: it.failures_omitted)),
    _Row(_HISTOGRAM, "bridge_engine_request_seconds", "Duration of requests to the engine, by command and result.",
        ("command", "result"), _by_words(lambda it: it.requests)),
    _Row(_COUNTER, "bridge_engine_actions",
        "Work on the engine that messages and orchestrations caused, by route and kind.", ("route", "kind"),
        _by_words(lambda it: it.actions)),
)  # fmt: skip
_WAITING: tuple[_Row[WaitingStats], ...] = (
    _Row(_GAUGE, "bridge_waiting_messages", "Messages that wait on the engine, early and quarantined ones.", (),
        _one(lambda it: it.waiting_messages)),
    _Row(_GAUGE, "bridge_waiting_bytes", "Bytes of early and quarantined messages on the engine.", (),
        _one(lambda it: it.waiting_bytes)),
    _Row(_COUNTER, "bridge_waiting_refused", "Messages dead-lettered because too many waited.", (),
        _one(lambda it: it.refused)),
    _Row(_GAUGE, "bridge_early_messages", "Messages that wait for the start of their instance.", (),
        _one(lambda it: it.waiting)),
    _Row(_GAUGE, "bridge_early_messages_expiring", "Early messages with less than a quarter of their wait left.", (),
        _one(lambda it: it.expiring)),
    _Row(_COUNTER, "bridge_early_message_events", "Events of early messages in this process.", ("event",),
        _by_word(lambda it: it.events)),
    _Row(_COUNTER, "bridge_quarantine_events", "Events of quarantined messages in this process.", ("event",),
        _by_word(lambda it: it.quarantined)),
    _Row(_COUNTER, "bridge_replay_events", "Events of dead letters in replay queues in this process.", ("event",),
        _by_word(lambda it: it.replayed)),
)  # fmt: skip
_BUDGETS: tuple[_Row[BudgetStats], ...] = (
    _Row(_GAUGE, "bridge_engine_starts_waiting", "Starts that wait for max_actions_per_minute.", (),
        _one(lambda it: it.waiting)),
    _Row(_COUNTER, "bridge_engine_starts_delayed", "Starts that waited for max_actions_per_minute.", (),
        _one(lambda it: it.delayed)),
)  # fmt: skip
_LIMITS: tuple[_Row[LimitStats], ...] = (
    _Row(_GAUGE, "bridge_route_running", "Running orchestrations, as counted.", (),
        _one(lambda it: _optional(it.running_instances, len))),
    _Row(_GAUGE, "bridge_route_running_limit", "Limit of running orchestrations.", (), _one(lambda it: it.running)),
    _Row(_GAUGE, "bridge_route_waiting", "Starts that wait for the limit of running orchestrations.", (),
        _one(lambda it: None if it.running_instances is None else it.waiting)),
    _Row(_COUNTER, "bridge_route_delayed", "Commands that waited for the rate limit.", (), _one(lambda it: it.delayed)),
    _Row(_GAUGE, "bridge_route_rate_limit", "Limit of commands per second in this process.", (),
        _one(lambda it: it.rate)),
    _Row(_GAUGE, "bridge_route_temporary_limit_end_timestamp_seconds", "End of the temporary limit of a person.", (),
        _one(lambda it: it.until)),
    _Row(_GAUGE, "bridge_route_values", "Values with their own limits (limits.per).", (),
        _one(lambda it: _optional(it.values, lambda values: values[0]))),
    _Row(_COUNTER, "bridge_route_value_overflows", "Commands whose value shared its limits (limits.per.max_values).",
        (), _one(lambda it: _optional(it.values, lambda values: values[1]))),
)  # fmt: skip
_PROCESS: tuple[_Row[ProcessStats], ...] = (
    _Row(_COUNTER, "bridge_published", "Messages published, by target.", ("target",),
        _by_word(lambda it: _optional(it.publishing, lambda each: each.published))),
    _Row(_COUNTER, "bridge_publish_failures", "Publishes that failed, by target.", ("target",),
        _by_word(lambda it: _optional(it.publishing, lambda each: each.failed))),
    _Row(_COUNTER, "bridge_late_dead_letters", "Dead letters of early and quarantined messages, by reason.",
        ("source", "reason"), _by_words(lambda it: it.late_dead_letters())),
    _Row(_COUNTER, "bridge_answers", "Answers to requests, by result.", ("engine", "result"),
        _nested(lambda it: it.answers())),
    _Row(_COUNTER, "bridge_canary_messages", "Messages of the candidate by outcome, and failed instances of it.",
        ("candidate", "result"),
        lambda it: [((version, result), n) for version, all_ in [it.candidate()] for result, n in list(all_.items())]),
    _Row(_COUNTER, "bridge_connections_refused", "Connections refused, by cause.", ("port", "cause"),
        _nested(lambda it: it.refused())),
    _Row(_COUNTER, "bridge_repeats_dropped", "Repeated messages that workflows dropped, by the part that dropped them.",
        ("by",), _by_word(lambda it: it.repeats())),
    _Row(_COUNTER, "bridge_clock_jumps", "Steps of the wall clock, by direction.", ("direction",),
        _by_word(lambda it: it.clock_jumps())),
    _Row(_GAUGE, "bridge_info", "Always 1.", ("version", "config"), lambda it: [(it.info(), 1)]),
)  # fmt: skip
_RELOADS: tuple[_Row[ReloadStats], ...] = (
    _Row(_GAUGE, "bridge_config_last_reload_successful", "1 if the last reload succeeded, or none was tried.", (),
        _one(lambda it: it.successful)),
    _Row(_GAUGE, "bridge_config_last_reload_success_timestamp_seconds", "Time of the last successful reload or start.",
        (), _one(lambda it: it.succeeded_at)),
    _Row(_COUNTER, "bridge_config_reloads", "Reloads of the configuration, by result.", ("result",),
        _by_word(lambda it: it.results)),
)  # fmt: skip
_READINESS: tuple[_Row[Readiness], ...] = (
    _Row(_GAUGE, "bridge_ready", "1 while /readyz answers 200.", (), _one(lambda it: it.ready)),
    _Row(_GAUGE, "bridge_component_state",
        "1 for the state of a component of /readyz, 0 for the other states of its kind.", ("kind", "name", "state"),
        _states),
)  # fmt: skip
_DEAD_LETTERS: tuple[_Row[DeadLetterStats], ...] = (
    _Row(_GAUGE, "bridge_dead_letters_open",
        "Open dead letters of all daemons, by reason and route; route is empty for messages without one.",
        ("source", "reason", "route"), lambda it: list(it.open.items())),
    _Row(_GAUGE, "bridge_dead_letter_oldest_seconds", "Age of the oldest open dead letter; 0 without one.", ("source",),
        _by_word(lambda it: it.oldest)),
    _Row(_GAUGE, "bridge_dead_letter_cache_bytes", "Bytes of the cached facts of dead letters on this machine.", (),
        _one(lambda it: it.cache_bytes)),
)  # fmt: skip
_TRACES: tuple[_Row[TraceStats], ...] = (
    _Row(_GAUGE, "bridge_trace_receiver_up", "1 while the receiver of traces takes spans.", (),
        _one(lambda it: it.away is None)),
    _Row(_COUNTER, "bridge_spans_sent", "Spans that the receiver of traces has taken.", (), _one(lambda it: it.sent)),
    _Row(_COUNTER, "bridge_spans_dropped", "Spans that were dropped, by reason.", ("reason",),
        _by_word(lambda it: it.losses)),
    _Row(_GAUGE, "bridge_spans_buffered", "Spans in memory.", (), _one(lambda it: it.waiting["memory"])),
    _Row(_GAUGE, "bridge_spans_backlog_bytes", "Bytes of spans in files of engines.", (),
        _one(lambda it: it.waiting["engine"])),
)  # fmt: skip
_EVENTS: tuple[_Row[EventStats], ...] = (
    _Row(_GAUGE, "bridge_lifecycle_target_up", "1 while the target of lifecycle events takes them.", (),
        _one(lambda it: it.away is None)),
    _Row(_COUNTER, "bridge_lifecycle_events_published", "Lifecycle events that were published, by kind.", ("kind",),
        _by_word(lambda it: it.published)),
    _Row(_COUNTER, "bridge_lifecycle_events_dropped", "Lifecycle events that were dropped, by reason.", ("reason",),
        _by_word(lambda it: it.dropped)),
    _Row(_GAUGE, "bridge_lifecycle_events_waiting", "Lifecycle events that are not published yet, by place.",
        ("place",), _by_word(lambda it: it.waiting)),
)  # fmt: skip
_JOBS: tuple[_Row[JobStats], ...] = (
    _Row(_GAUGE, "bridge_jobs", "Jobs by kind and state.", ("kind", "state"), _by_words(lambda it: it.jobs)),
    _Row(_COUNTER, "bridge_job_items", "Results of items of jobs.", ("kind", "result"), _by_words(lambda it: it.items)),
)  # fmt: skip
_WORKFLOWS: tuple[_Row[WorkflowStats], ...] = (
    _Row(_COUNTER, "bridge_sagas", "Sagas that ended, by outcome.", ("saga", "outcome"),
        _by_words(lambda it: it.sagas)),
    _Row(_HISTOGRAM, "bridge_orchestration_seconds", "From the creation of an instance to its end.",
        ("orchestration", "status"), _by_words(lambda it: it.orchestrations)),
    _Row(_HISTOGRAM, "bridge_activity_seconds", "Duration of activities, by result.", ("activity", "result"),
        _by_words(lambda it: it.activities)),
    _Row(_GAUGE, "bridge_sessions", "Orchestrations in memory between turns.", (), _one(lambda it: it.sessions)),
    _Row(_COUNTER, "bridge_replays", "Turns that ran an orchestrator again from its history.", (),
        _one(lambda it: it.replays)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Figures:
    """Values of one subject at one moment. rows: of each row of its table."""

    rows: Sequence[_Row[Any]]
    labels: tuple[str, ...]
    subject: tuple[str, ...]
    values: list[list[tuple[Sequence[str], Any]]] = field(default_factory=list)


def _read(rows: Sequence[_Row[S]], labels: tuple[str, ...], name: tuple[str, ...], subject: S) -> _Figures:
    return _Figures(rows, labels, name, [_figures(row, subject) for row in rows])


def _figures(row: _Row[S], subject: S) -> list[tuple[Sequence[str], Any]]:
    values = row.read(subject)
    if row.kind is _HISTOGRAM:
        return [(labels, (_buckets(histogram), histogram.total)) for labels, histogram in values]
    return list(values)


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
        late_dead_letters: Callable[[], Mapping[tuple[str, str], int]] = dict,
        clock_jumps: Callable[[], Mapping[str, int]] = dict,
        answers: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        refused: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        workflows: Callable[[], WorkflowStats] | None = None,
        *,
        jobs: JobStats | None = None,
        traces: TraceStats | None = None,
        events: EventStats | None = None,
        dead_letters: DeadLetterStats | None = None,
        candidate: Callable[[], tuple[str, Mapping[str, int]]] = lambda: ("", {}),
        budgets: Sequence[BudgetStats] = (),
        readiness: Callable[[], Readiness] | None = None,
        process: Collector | None = None,
        reloads: ReloadStats | None = None,
        version: str,
        config: str = "",
    ) -> None:
        """Create the metrics.

        sources, engines, waiting: called at every scrape.
        publishing: None where no workflow runs.
        repeats: duplicates that workflows have dropped, by the part that dropped them.
        limits: limits of the routes that have some.
        late_dead_letters: dead letters of early and quarantined messages, by source and reason.
        clock_jumps: steps of the wall clock, by direction.
        answers: answers to requests, by engine and result.
        refused: refused connections, by port and cause.
        jobs: jobs of the engines; None where they are not read.
        traces: export of spans; None where traces are off.
        events: publication of lifecycle events; None where none are configured.
        dead_letters: open dead letters; None where no source is consumed.
        candidate: version of the candidate for the rules, and its counts.
        budgets: limits of the actions of the engines that have one.
        readiness: answer of `/readyz`; None where nothing has it.
        process: metrics of the process, as of the library.
        version: version of the bridge.
        reloads: version of its configuration, and reloads; None where nothing reloads it.
        config: version of its configuration, without `reloads`.
        """
        self._version, self._config = version, config
        self._reloads = reloads
        self._sources = sources
        self._engines = engines
        self._waiting = waiting
        self._limits = limits
        self._budgets = budgets
        self._process = ProcessStats(
            publishing, repeats, late_dead_letters, clock_jumps, answers, refused, workflows, self._info, candidate
        )
        self._jobs = jobs
        self._traces = traces
        self._events = events
        self._dead_letters = dead_letters
        self._readiness = readiness
        self._collector = process
        self._scrape = asyncio.Lock()

    def render(self, *, openmetrics: bool = False) -> bytes:
        """Render the text exposition format (`CONTENT_TYPE`), or OpenMetrics (`OPENMETRICS`), which has exemplars."""
        return self._text([*map(_source, self._sources()), *self._others()], openmetrics)

    async def scrape(self, *, openmetrics: bool = False) -> bytes:
        """Render as `render` does, and let the event loop go on, however many sources and partitions there are.

        The figures of one source belong to one moment. One thread turns the figures of all sources into text.
        """
        async with self._scrape:
            return await asyncio.to_thread(self._text, await self._figures(), openmetrics)

    async def families(self) -> Sequence[Metric]:
        """Families, for other formats; lets the event loop go on as `scrape` does."""
        async with self._scrape:
            figures = await self._figures()
            return await asyncio.to_thread(lambda: [*self._families(figures)])

    async def _figures(self) -> list[_Figures]:
        figures = []
        since = time.thread_time()
        for source in list(self._sources()):
            figures.append(_source(source))
            if time.thread_time() - since > _SLICE:
                await asyncio.sleep(0)
                since = time.thread_time()
        return [*figures, *self._others()]

    def _info(self) -> tuple[str, str]:
        return self._version, self._config if self._reloads is None else self._reloads.version

    def _others(self) -> Iterator[_Figures]:
        """Figures of everything but sources."""
        for engine in self._engines():
            yield _read(_ENGINES, ("engine",), (engine.name,), engine)
        for waiting in self._waiting():
            yield _read(_WAITING, ("engine",), (waiting.name,), waiting)
        for limit in self._limits:
            yield _read(_LIMITS, ("route",), (limit.route,), limit)
        for budget in self._budgets:
            yield _read(_BUDGETS, ("engine",), (budget.engine,), budget)
        if self._process.workflows is not None:
            yield _read(_WORKFLOWS, (), (), self._process.workflows())
        if self._jobs is not None:
            yield _read(_JOBS, (), (), self._jobs)
        if self._reloads is not None:
            yield _read(_RELOADS, (), (), self._reloads)
        if self._readiness is not None:
            yield _read(_READINESS, (), (), self._readiness())
        if self._dead_letters is not None:
            yield _read(_DEAD_LETTERS, (), (), self._dead_letters)
        if self._traces is not None:
            yield _read(_TRACES, (), (), self._traces)
        if self._events is not None:
            yield _read(_EVENTS, (), (), self._events)
        yield _read(_PROCESS, (), (), self._process)

    def _families(self, figures: Sequence[_Figures]) -> Iterator[Metric]:
        yield from _families(figures)
        if self._collector is not None:
            yield from self._collector.collect()

    def _text(self, figures: Sequence[_Figures], openmetrics: bool) -> bytes:
        families = _Families(list(self._families(figures)))
        if not openmetrics:
            return generate_latest(families)
        text: bytes = generate_openmetrics(families)  # type: ignore[no-untyped-call]  # the library has no types here
        return text


def chosen_type(accept: str) -> str:
    """CONTENT_TYPE, or OPENMETRICS if an Accept header prefers that: by its weights, then by its order."""
    best, weight = CONTENT_TYPE, 0.0
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        values = dict(part.partition("=")[::2] for part in parameters)
        try:
            q = float(values.get("q", "1"))
        except ValueError:
            continue
        found = {"application/openmetrics-text": OPENMETRICS, "text/plain": CONTENT_TYPE, "*/*": CONTENT_TYPE}.get(kind)
        if found == OPENMETRICS and values.get("version", "1.0.0") != "1.0.0":
            continue
        if found is not None and q > weight:
            best, weight = found, q
    return best


def _source(source: SourceStats) -> _Figures:
    return _read(_SOURCES, ("source",), (source.name,), source)


class _Families(Collector):
    """Metrics that are made already, as the library takes them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _families(figures: Sequence[_Figures]) -> Iterable[Metric]:
    families: dict[str, Any] = {}
    for rows, labels in _TABLES:
        for row in rows:
            families[row.name] = row.kind(row.name, row.text, labels=(*labels, *row.labels))
    for each in figures:
        for row, values in zip(each.rows, each.values, strict=True):
            family = families[row.name]
            for further, value in values:
                if row.kind is _HISTOGRAM:
                    family.add_metric((*each.subject, *further), *value)
                else:
                    family.add_metric((*each.subject, *further), float(value))
    return families.values()


_TABLES: tuple[tuple[Sequence[_Row[Any]], tuple[str, ...]], ...] = (
    (_SOURCES, ("source",)),
    (_ENGINES, ("engine",)),
    (_WAITING, ("engine",)),
    (_BUDGETS, ("engine",)),
    (_LIMITS, ("route",)),
    (_RELOADS, ()),
    (_READINESS, ()),
    (_JOBS, ()),
    (_WORKFLOWS, ()),
    (_DEAD_LETTERS, ()),
    (_TRACES, ()),
    (_EVENTS, ()),
    (_PROCESS, ()),
)


def _buckets(histogram: HistogramLike) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Cumulative bucket counts, as in the exposition format, with the examples that OpenMetrics shows."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    running = 0
    examples = dict(histogram.exemplars or {})
    bounds = (*(repr(float(bound)) for bound in histogram.bounds), "+Inf")
    for index, (bound, count) in enumerate(zip(bounds, histogram.counts, strict=True)):
        running += count
        example = examples.get(index)
        if example is None:
            buckets.append((bound, running))
        else:
            shown = Exemplar({"trace_id": example.trace_id}, example.seconds, round(example.at, 3))
            buckets.append((bound, running, shown))
    return buckets
