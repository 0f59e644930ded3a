"""Actions of the Durable Task Scheduler per message: those that Azure bills, counted from a configuration.

An action is a message that the scheduler dispatches to the worker: the start of an orchestration, of a child or of an
activity, an expired timer, an event, an operation of an entity, a suspension, resumption or termination, and the result
of an activity, a call or lock of an entity, or a child. Queries, and timers that are cancelled, are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.app.check.workflows import workflow_files
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.model.routes import RouteConfig, StartMissing, WaitMissing
from bridge.config.model.sagas import SagaConfig, SagaStepConfig
from bridge.config.model.types import format_duration
from bridge.config.source import Loaded, state_engine
from bridge.core.commands import OnExisting
from bridge.lint.durable_calls import (
    ACTIVITY,
    ANSWER,
    CHILD,
    ENTITY_CALL,
    EVENT,
    LOCK,
    SIGNAL,
    TIMER,
    DurableCalls,
    durable_calls,
)
from bridge.quarantine.orphaned import quarantine_engine
from bridge.routing.cel.template import constant_prefix

_OF_CALL = {ACTIVITY: 2, ANSWER: 1, CHILD: 2, TIMER: 1, EVENT: 1, ENTITY_CALL: 2, SIGNAL: 1, LOCK: 2}
"""Actions of one durable call: what it starts, and its result."""

CONSUMPTION, DEDICATED, UNITS = 500, 2000, 3
"""Most actions a second: of a scheduler that is billed by actions, of one capacity unit, and the most units."""

_POLL = 60.0
"""Seconds between two looks of a waiting message for its instance, on a scheduler."""

_MONTH = 30 * 86_400


@dataclass(frozen=True, slots=True)
class CostLine:
    """Actions with their explanation. when: case in which they occur; empty for every message or instance."""

    actions: int
    what: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class SagaCost:
    """Actions of one instance of a saga of the configuration.

    success: every step succeeds at its first attempt.
    compensated: the last step that can be undone fails, and all are undone at their first attempt.
    published: messages that it publishes when it succeeds.
    """

    saga: str
    success: int
    compensated: int
    lines: tuple[CostLine, ...]
    published: int = 0


@dataclass(frozen=True, slots=True)
class RouteCost:
    """Actions of one message of a route, with the workflow that it starts.

    billed: False on an embedded engine, where nothing is billed.
    actions: of the command and its workflow, as far as known, and of the lineage index.
    notes: unknown facts, with their reasons.
    indexed: actions of the lineage index among them, where each row has its own write.
    """

    route: str
    sources: tuple[str, ...]
    engine: str
    billed: bool
    command: str
    actions: int
    lines: tuple[CostLine, ...]
    notes: tuple[str, ...] = ()
    indexed: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Actions of all routes and sagas, and those of waiting messages.

    indexed: most actions a second of the lineage index, by engine, for each process.
    """

    routes: tuple[RouteCost, ...]
    sagas: tuple[SagaCost, ...]
    waiting: tuple[CostLine, ...]
    indexed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Total:
    """Sum at a rate of messages.

    rates: messages a second by route.
    left_out: routes without a rate of their own whose messages are answers: the sagas that await them count them.
    indexed: actions a second of the lineage index among them, with one process that writes it.
    """

    rates: Mapping[str, float]
    per_second: float
    left_out: tuple[str, ...]
    indexed: float = 0.0

    @property
    def per_minute(self) -> float:
        return self.per_second * 60

    @property
    def per_month(self) -> float:
        """Actions in 30 days."""
        return self.per_second * _MONTH

    @property
    def fits(self) -> str:
        """Sentence about the plan of the scheduler that has the capacity."""
        if self.per_second <= CONSUMPTION:
            return f"within the {CONSUMPTION}/s of the Consumption plan"
        units = -(-int(self.per_second) // DEDICATED)
        if units <= UNITS:
            needed = "1 capacity unit" if units == 1 else f"{units} capacity units"
            return f"above the {CONSUMPTION}/s of the Consumption plan: needs {needed} of Dedicated"
        return f"above the {UNITS * DEDICATED:,}/s of {UNITS} capacity units: needs several schedulers"


def cost(loaded: Loaded) -> Cost:
    """Count the actions of a valid configuration. No code of the project runs."""
    code = _code(loaded)
    sagas = {name: _saga(name, saga) for name, saga in loaded.config.sagas.items()}
    routes = tuple(_route(loaded, route, sagas, code) for route in loaded.config.routes)
    shards = loaded.config.ops.lineage.shards
    indexed = {name: shards.number / shards.pause for name in loaded.config.engines if _is_indexed(loaded, name)}
    return Cost(routes, tuple(sagas.values()), tuple(_waiting(loaded)), indexed)


def total(found: Cost, rate: float | None, rates: Mapping[str, float]) -> Total:
    """Add up the actions at rates of messages.

    rate: of every route that has none of its own; answers have none.
    rates: by route. Raises: LookupError for an unknown route.
    """
    known = {each.route: each for each in found.routes}
    for name in rates:
        if name not in known:
            raise LookupError(f"there is no route {name!r} (known: {', '.join(known) or 'none'})")
    used: dict[str, float] = {}
    left_out = []
    for route in found.routes:
        if route.route in rates:
            used[route.route] = rates[route.route]
        elif rate is not None and route.command == "reply":
            left_out.append(route.route)
        elif rate is not None:
            used[route.route] = rate
    rows: dict[str, float] = {}
    for name, seconds in used.items():
        rows[known[name].engine] = rows.get(known[name].engine, 0.0) + seconds * known[name].indexed
    # A write takes all rows of an entity: the faster the messages, the more share one
    indexed = sum(min(rows.get(name, 0.0), most) for name, most in found.indexed.items())
    others = sum(seconds * (known[name].actions - known[name].indexed) for name, seconds in used.items())
    return Total(used, others + indexed, tuple(left_out), indexed)


def _code(loaded: Loaded) -> dict[str, DurableCalls]:
    """Durable calls in the workflow modules; none of modules that are elsewhere."""
    paths: list[Path] = []
    try:
        paths = workflow_files(loaded)
    except LookupError:
        return {}
    return durable_calls(paths)


# -- routes


def _route(
    loaded: Loaded, route: RouteConfig, sagas: Mapping[str, SagaCost], code: Mapping[str, DurableCalls]
) -> RouteCost:
    lines: list[CostLine] = []
    notes: list[str] = []
    command = getattr(route, route.command)
    match route.command:
        case "schedule" | "start_or_raise":
            lines += _start(loaded, route, sagas, code, notes)
        case "raise_event" | "reply":
            lines.append(CostLine(1, "event of the instance"))
        case "cancel":
            lines.append(CostLine(1, "event of the instance"))
            if command.grace is not None:
                lines.append(
                    CostLine(4, "grace period: its orchestration, its timer, a look at the instance and its result")
                )
                lines.append(
                    CostLine(5, "suspension, probe, termination and their activity", "not acknowledged in time")
                )
        case "terminate":
            lines.append(CostLine(1, "termination"))
            if command.recursive:
                lines.append(CostLine(1, "termination", "per child that runs"))
        case "suspend" | "resume":
            lines.append(CostLine(1, "suspension" if route.command == "suspend" else "resumption"))
        case "signal_entity":
            lines.append(CostLine(1, f"operation of entity {command.entity}"))
            notes.append("what the entity itself signals or starts is not known")
    missing = getattr(command, "on_missing", None)
    if isinstance(missing, WaitMissing):
        lines += [
            CostLine(each.actions, each.what, f"early: {each.when}" if each.when else "early")
            for each in _early(loaded, route)
        ]
    if isinstance(missing, StartMissing):
        lines.append(CostLine(1, f"start of {missing.start}", "the instance is missing"))
        notes += _known(missing.start, code)[1]
    if route.for_each is not None:
        notes.append("per item of `for_each`: multiply by their number")
    rows = [] if route.command == "ignore" else list(_rows(loaded, route, sagas, notes))
    lines += rows
    sums = sum(line.actions for line in lines if not line.when)
    billed = not isinstance(loaded.config.engines[route.engine], EmbeddedEngineConfig)
    return RouteCost(
        route.name, route.from_, route.engine, billed, route.command, sums, tuple(lines), tuple(dict.fromkeys(notes)),
        sum(row.actions for row in rows if not row.when),
    )  # fmt: skip


def _is_indexed(loaded: Loaded, engine: str) -> bool:
    """True when the bridge writes the lineage index of the engine as billed entities."""
    remote = not isinstance(loaded.config.engines[engine], EmbeddedEngineConfig)
    return remote and loaded.config.ops.lineage.index == "all"


def _rows(loaded: Loaded, route: RouteConfig, sagas: Mapping[str, SagaCost], notes: list[str]) -> Iterator[CostLine]:
    """Rows of the lineage index, each with a write of its own."""
    if not _is_indexed(loaded, route.engine):
        return
    yield CostLine(2, "lineage index: the message's id and position")
    start = route.schedule or route.start_or_raise
    saga = sagas.get(getattr(start, "saga", None) or "")
    if saga is not None:
        yield CostLine(saga.published, f"lineage index: messages that saga {saga.saga} publishes")
    elif start is not None:
        yield CostLine(1, "lineage index", "per message that the workflow publishes")
    if isinstance(getattr(getattr(route, route.command), "on_missing", None), WaitMissing):
        yield CostLine(2, "lineage index: the message waits", "early")
    shards = loaded.config.ops.lineage.shards
    notes.append(
        f"rows of the lineage index are written together: at most {shards.number} actions in "
        f"{format_duration(shards.pause)} for each process"
    )


def _start(
    loaded: Loaded,
    route: RouteConfig,
    sagas: Mapping[str, SagaCost],
    code: Mapping[str, DurableCalls],
    notes: list[str],
) -> Iterator[CostLine]:
    command = route.schedule or route.start_or_raise
    assert command is not None
    saga = getattr(command, "saga", None)
    if saga is not None:
        found = sagas.get(saga)
        if found is not None:
            yield CostLine(found.success, f"saga {saga}, which succeeds (compensated: {found.compensated})")
    else:
        assert command.orchestration is not None
        yield CostLine(1, f"start of {command.orchestration}")
        lines, unknown = _known(command.orchestration, code)
        yield from lines
        notes += unknown
    if _notified(loaded, route):
        yield CostLine(1, "notification of early messages of the instance")
    if route.start_or_raise is not None or getattr(command, "on_existing", None) is OnExisting.RAISE:
        notes.append("a message for an instance that runs costs one action, its event, instead of a start")


def _known(orchestration: str, code: Mapping[str, DurableCalls]) -> tuple[list[CostLine], list[str]]:
    """Lines of an orchestration in Python, as far as its source tells, and notes about the rest."""
    return _of_code(orchestration, code, ())


def _of_code(
    orchestration: str, code: Mapping[str, DurableCalls], above: Sequence[str]
) -> tuple[list[CostLine], list[str]]:
    calls = code.get(orchestration)
    if calls is None:
        return [], [f"the code of {orchestration} is not among the workflow modules: only its start is counted"]
    where = f"{orchestration}: " if above else ""
    lines = [
        CostLine(_OF_CALL[kind] * number, f"{where}{number} x {kind} in its code ({_OF_CALL[kind]} each)")
        for kind, number in calls.once.items()
        if kind not in (TIMER, EVENT)
    ]
    if calls.once[EVENT]:
        lines.append(
            CostLine(1, f"{where}event ({calls.once[EVENT]} in the code)", "counted with the route that raises it")
        )
    timers = calls.once[TIMER]
    if timers:
        lines.append(CostLine(1, f"{where}timer ({timers} in the code)", "it expires"))
    lines += [
        CostLine(_OF_CALL[kind], f"{where}{kind}, {number} in a loop or a shared function", "each time")
        for kind, number in calls.repeated.items()
    ]
    notes = ["branches of the code count as taken, retries as not needed, and helpers outside the modules not at all"]
    if calls.repeated:
        notes.append(f"how often loops of {orchestration} run is not known: they count 0 in the sum")
    for child in dict.fromkeys(calls.children):
        if child in above or child == orchestration:
            notes.append(f"{child} calls itself: how often is not known")
            continue
        more, unknown = _of_code(child, code, (*above, orchestration))
        lines += [line for line in more if not line.when]
        notes += unknown
    return lines, notes


def _notified(loaded: Loaded, route: RouteConfig) -> bool:
    """True when each start of the route notifies the early messages of its instance, as on a scheduler."""
    if isinstance(loaded.config.engines[route.engine], EmbeddedEngineConfig):
        return False
    command = route.schedule or route.start_or_raise
    assert command is not None
    started = constant_prefix(command.instance_id)
    for other in loaded.config.routes:
        waits = getattr(other, other.command)
        if other.engine == route.engine and isinstance(getattr(waits, "on_missing", None), WaitMissing):
            waiting = constant_prefix(waits.instance_id)
            if started.startswith(waiting) or waiting.startswith(started):
                return True
    return False


def _early(loaded: Loaded, route: RouteConfig) -> Iterator[CostLine]:
    engine = loaded.config.engines[route.engine]
    embedded = isinstance(engine, EmbeddedEngineConfig)
    poll = engine.early_messages.poll or (600.0 if embedded else _POLL)
    yield CostLine(1, "operation that stores the message")
    yield CostLine(1, f"look for the instance, every {format_duration(poll)}", "per look")
    yield CostLine(1, "operation that forgets delivered messages, 5 minutes later")
    yield CostLine(3, "dead letter: an orchestration and its activity", "its time ends")


def _waiting(loaded: Loaded) -> Iterator[CostLine]:
    for name, source in loaded.config.sources.items():
        if source.quarantine is not None:
            yield CostLine(
                2, f"source {name}: operations that store and complete the message", "per quarantined message"
            )
            if _is_indexed(loaded, quarantine_engine(loaded, name) or ""):
                yield CostLine(3, f"source {name}: lineage index: id, position and key", "per quarantined message")
            yield CostLine(
                1, f"source {name}: operation that claims a released key", "per release, and every 10 s of it"
            )
        yield CostLine(
            2,
            f"source {name}: operations on the shared pace",
            f"per dead letter beyond {source.limits.dead_letter_limit} a minute",
        )
        if _is_indexed(loaded, state_engine(loaded, name)):
            yield CostLine(2, f"source {name}: lineage index: id and position", "per dead letter")
    lineage = loaded.config.ops.lineage.shards
    for engine in loaded.config.engines:
        if _is_indexed(loaded, engine):
            most = f"at most {10 * lineage.number} per {format_duration(lineage.age)}"
            yield CostLine(1, f"engine {engine}: lineage index: removal by age", most)


# -- sagas


def _saga(name: str, saga: SagaConfig) -> SagaCost:
    answers = saga.replies is not None
    steps = list(_commands(saga.steps))
    lines = [CostLine(1, "start of the instance")]
    forward: list[int] = []
    undo = 0
    undone = 0
    published = 0
    before_return = True
    for step in steps:
        if step is None:
            before_return = False
            continue
        assert step.command is not None
        awaited = answers and step.command.reply is not False
        judged = awaited and (step.refused is not None or step.failed is not None)
        actions = _exchange(awaited, judged)
        lines.append(CostLine(actions, f"step {step.name}: {_text(awaited, judged)}"))
        forward.append(actions)
        published += 1
        if before_return:
            undone = len(forward)
        if before_return and step.compensation is not None:
            back = answers and step.compensation.reply is True
            actions = _exchange(back, False)
            undo += actions
            lines.append(CostLine(actions, f"compensation of {step.name}: {_text(back, False)}", "compensated"))
    if saga.result is not None:
        lines.append(CostLine(2, "result: expressions (activity and its result)"))
    if saga.publish_outcome is not None:
        lines.append(CostLine(2, f"outcome, published to {saga.publish_outcome} (activity and its result)"))
    lines.append(
        CostLine(3, "pause, publication and its result; an answer that is awaited adds 1, its check 2", "per retry")
    )
    if any(step is not None and step.timeout is not None for step in steps):
        lines.append(CostLine(1, "timer", "a step's time ends"))
    success = sum(line.actions for line in lines if not line.when)
    outcome = 2 if saga.publish_outcome is not None else 0
    published += saga.publish_outcome is not None
    return SagaCost(name, success, 1 + sum(forward[:undone]) + undo + outcome, tuple(lines), published)


def _commands(entries: Sequence[SagaStepConfig]) -> Iterator[SagaStepConfig | None]:
    """Steps with a command, in order, branches one after another; None for the point of no return."""
    for entry in entries:
        if entry.command is not None:
            yield entry
        elif entry.point_of_no_return is not None:
            yield None
        else:
            yield from _commands(entry.parallel or entry.steps or ())


def _exchange(awaited: bool, judged: bool) -> int:
    """Actions of one command: its expressions, its publication, the answer and the check of the answer."""
    return 2 + 2 + (1 if awaited else 0) + (2 if judged else 0)


def _text(awaited: bool, judged: bool) -> str:
    parts = ["2 expressions", "2 publication"]
    if awaited:
        parts.append("1 answer")
    if judged:
        parts.append("2 check of the answer")
    return ", ".join(parts)
