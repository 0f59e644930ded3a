"""Figures that the metrics read: protocols of the parts that have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Protocol

from bridge.core.histogram import Exemplar
from bridge.engines.base import EngineUsage


class HistogramLike(Protocol):
    """Protocol of a histogram.

    bounds: inclusive upper bounds in seconds.
    counts: number per bound and one above the last bound, not cumulative.
    exemplars: newest example of a bucket by its index; None without any.
    """

    @property
    def bounds(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def total(self) -> float: ...
    @property
    def exemplars(self) -> Mapping[int, Exemplar] | None: ...


class SourceStats(Protocol):
    """Counts of one source since the process started, read on the event loop's thread.

    outcomes, dead_letters, abandoned: by outcome or reason.
    commands: by (route, command).
    in_flight: received and not settled.
    queued: in flight and waiting for a worker.
    held: an outage stops the source.
    waiting_for_engines: ordering keys that wait for an engine while another one answers, by engine.
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
    def seeks(self) -> int: ...
    @property
    def held(self) -> bool: ...
    @property
    def waiting_for_engines(self) -> Mapping[str, int]: ...
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

    def ages(self) -> Iterable[tuple[str, int, float]]:
        """Topic, number, and age in seconds of the oldest unprocessed record, of the partitions where it is known."""
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


class LineageStats(Protocol):
    """Lineage index that the bridge writes. events: rows by event. buffered: rows that wait for a write."""

    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def buffered(self) -> int: ...


class EngineStats(Protocol):
    """State of an engine.

    up: its breaker is closed.
    durable: acknowledged work survives the process.
    incompatible: instances that failed because their code was changed while they ran, by orchestration.
    unknown: calls and publishes of orchestrations under names that nothing registers, by kind.
    faults: operations that could not be applied and were given up, by kind.
    stuck: pools of worker threads of this process that cannot work.
    usage: memory of an engine that this process hosts; None of others.
    lineage: lineage index that the bridge writes; None of others.
    instances: existing instances by orchestration and status; empty while they are not counted.
    finished: ends of instances that this process saw, by orchestration and status.
    failures_omitted: failed instances and compensated sagas without a line in the log.
    requests: durations of requests by command and result.
    actions: work that messages and orchestrations caused, by route and kind.
    worker_processes: worker processes by state. worker_ends: their unexpected ends by cause. worker_items: work items
    that they hold.
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
    @property
    def lineage(self) -> LineageStats | None: ...
    @property
    def instances(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def finished(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def failures_omitted(self) -> int: ...
    @property
    def requests(self) -> Mapping[tuple[str, str], HistogramLike]: ...
    @property
    def actions(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def worker_processes(self) -> Mapping[str, int]: ...
    @property
    def worker_ends(self) -> Mapping[str, int]: ...
    @property
    def worker_items(self) -> int: ...


class JobStats(Protocol):
    """Jobs of all engines of this process.

    jobs: existing jobs by kind and state.
    items: results of items by kind and result, since the process started.
    """

    @property
    def jobs(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def items(self) -> Mapping[tuple[str, str], int]: ...


class WorkflowStats(Protocol):
    """Ends of sagas and orchestrations, and work of the workers, of all engines in this process.

    sagas: ends by name and outcome.
    orchestrations: durations from creation to end, by name and status.
    activities: durations by name and result.
    sessions: orchestrations in memory between their turns. replays: turns that ran an orchestrator from its history.
    """

    @property
    def sagas(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def orchestrations(self) -> Mapping[tuple[str, str], HistogramLike]: ...
    @property
    def activities(self) -> Mapping[tuple[str, str], HistogramLike]: ...
    @property
    def sessions(self) -> int: ...
    @property
    def replays(self) -> int: ...


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
    rate: commands a second of this process; None: no limit.
    until: end of a person's temporary limit, in seconds since the Unix epoch; None without one.
    """

    @property
    def rate(self) -> float | None: ...
    @property
    def until(self) -> float | None: ...

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


class BudgetStats(Protocol):
    """Limit of the actions on one engine. waiting: queued starts. delayed: starts that had to wait so far."""

    @property
    def engine(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def delayed(self) -> int: ...


class WaitingStats(Protocol):
    """Early and quarantined messages on one engine.

    events: events of early messages in this process, by event.
    quarantined: events of quarantined messages in this process, by event.
    replayed: events of dead letters in replay queues in this process, by event.
    waiting: early messages as last counted; None before the first count.
    expiring: those of them with less than a quarter of their wait left.
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
    def replayed(self) -> Mapping[str, int]: ...
    @property
    def waiting(self) -> int | None: ...
    @property
    def expiring(self) -> int | None: ...
    @property
    def waiting_messages(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def refused(self) -> int: ...


class DeadLetterStats(Protocol):
    """Open dead letters, whichever daemon has written them.

    open: by source, reason and route.
    oldest: age of the oldest in seconds, by source.
    cache_bytes: bytes of the files that save reading them again.
    """

    @property
    def open(self) -> Mapping[tuple[str, str, str], int]: ...
    @property
    def oldest(self) -> Mapping[str, float]: ...
    @property
    def cache_bytes(self) -> int: ...


class TraceStats(Protocol):
    """Export of spans.

    away: reason why the receiver takes none; None while it does.
    waiting: spans in `memory`, and bytes of spans in the files of engines (`engine`).
    losses: spans that were dropped, by reason.
    """

    @property
    def away(self) -> str | None: ...
    @property
    def sent(self) -> int: ...
    @property
    def waiting(self) -> Mapping[str, int]: ...
    @property
    def losses(self) -> Mapping[str, int]: ...


class EventStats(Protocol):
    """Publication of lifecycle events.

    away: cause why the target takes none; None while it does.
    published: events by kind. dropped: events that were not published, by reason.
    waiting: events in `memory`, and in the files of engines (`engine`).
    """

    @property
    def away(self) -> str | None: ...
    @property
    def published(self) -> Mapping[str, int]: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def waiting(self) -> Mapping[str, int]: ...


class ReloadStats(Protocol):
    """Version of the configuration in use, and the reloads since the process started.

    results: reloads by result.
    successful: the last reload, or the start.
    succeeded_at: seconds since the Unix epoch.
    """

    @property
    def version(self) -> str: ...
    @property
    def results(self) -> Mapping[str, int]: ...
    @property
    def successful(self) -> bool: ...
    @property
    def succeeded_at(self) -> float: ...
