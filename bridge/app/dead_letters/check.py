"""Dry run of a replay: what would become of each dead letter now. Nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bridge.app.codecs import build_registries
from bridge.app.composition import build_decoder, build_router
from bridge.app.connection import attached
from bridge.app.dead_letters.reading import DeadLetterSelection, PlaceStates, visit
from bridge.codecs.decoder import SourceDecoder
from bridge.config.source import Loaded
from bridge.core.commands import (
    Cancel,
    Command,
    RaiseEvent,
    RoutedCommand,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.core.dead_letter import DeadLetter
from bridge.core.errors import BridgeError, EngineError, MessageError, SchemaError
from bridge.core.message import Message, Position
from bridge.core.origin import MessageOrigin
from bridge.core.provenance import general
from bridge.core.settlement import Complete, Keep, RetryPolicy, decide, detail_of
from bridge.core.settlement import WriteDeadLetter as DeadLettered
from bridge.core.states import Outcome
from bridge.engines.base import Engine
from bridge.engines.commands import moving
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.commands.dry_run import DryRunClient, DryRunEngine
from bridge.routing.cel.expression import Compiler
from bridge.routing.router import Router

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry

_ONCE = RetryPolicy(in_memory=0.0, bug_attempts=1)


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """Expected end of a dead letter if it were replayed now.

    outcome: as of a delivery; `dead_lettered` if it would fail again.
    actions: changes on the engine, like `start order_saga`.
    reason, detail: of a failure.
    where: `file:line` of the expression, schema, command or rule that fails, where one is known.
    same_cause: a failure has the same reason and route as before.
    """

    outcome: Outcome
    actions: tuple[str, ...] = ()
    reason: str | None = None
    detail: str | None = None
    where: str | None = None
    same_cause: bool = False

    @property
    def text(self) -> str:
        """ExpectedOutcome in one line, equal for all dead letters of which the same would become."""
        if self.outcome is Outcome.DEAD_LETTERED:
            again = "still fails" if self.same_cause else "fails for another reason"
            return f"{again}: {self.reason}" + (f", {self.where}" if self.where else "")
        return ", ".join(self.actions) if self.actions else self.outcome.value.replace("_", " ")


class _SourceRules(NamedTuple):
    """Decoder and rules of a source. places: places in the configuration, by their names in errors."""

    decoder: SourceDecoder
    router: Router
    places: Mapping[str, tuple[str | int, ...]]


class DryRun:
    """Dry run with one configuration, for dead letters in their order."""

    def __init__(
        self, loaded: Loaded, engines: Mapping[str, Engine] | None, registries: Mapping[str, Registry] | None = None
    ) -> None:
        """Prepare the dry run.

        engines: running engines by name; None: do not ask the engines, and take every command as accepted.
        registries: schema registries by name, started.
        """
        sources = {
            name: config.model_copy(update={"trusted": "replay"}) for name, config in loaded.config.sources.items()
        }
        self._loaded = replace(loaded, config=loaded.config.model_copy(update={"sources": sources}))
        self._registries = registries
        self._sources: dict[str, _SourceRules] = {}
        self._clients: list[DryRunClient] = []
        self._runners: dict[str, CommandRunner] | None = None
        if engines is not None:
            dry = {name: DryRunEngine(each) for name, each in engines.items()}
            self._clients = [each.client for each in dry.values()]
            self._runners = {name: CommandRunner(cast(Engine, each)) for name, each in dry.items()}

    async def verdict(self, dead_letter: DeadLetter, message: Message, source: str) -> ExpectedOutcome:
        """Decide about a dead letter. source: source that would read it. Raises: ConfigError, EngineOutage."""
        rules = self._rules(source)
        origin = dead_letter.origin
        position = Position(dead_letter.position.cluster, origin.topic or "", origin.partition or 0, origin.offset or 0)
        try:
            if rules.decoder.prepare is not None:
                await rules.decoder.prepare([message])
            envelope = rules.decoder.decode(message, position)
            decision = rules.router.route(envelope)
        except MessageError as error:
            return self._failure(error, dead_letter, self._place(error, source, error.route))
        steps = [step for step in decision.steps if step.route not in dead_letter.executed]
        if self._runners is None:
            return _accepted(steps)
        runner = self._runners.__getitem__
        actions: list[str] = []
        outcomes: set[Outcome] = set()
        parts: Counter[str] = Counter()
        for step in steps:
            for client in self._clients:
                client.actions.clear()
            command_origin = MessageOrigin.of(envelope, step.route, parts[step.route])
            parts[step.route] += 1
            try:
                place = await moving.find(step.command, step.engine, step.others, runner)
                await moving.execute(step.command, command_origin, step.engine, place, runner)
            except EngineError as error:
                settlement = decide(error, step.command, 1, 0.0, _ONCE)
                if isinstance(settlement, Complete):
                    outcomes.add(settlement.outcome)
                elif isinstance(settlement, Keep):
                    outcomes.add(Outcome.EARLY)
                elif isinstance(settlement, DeadLettered):
                    return self._failure(error, dead_letter, self._place(error, source, step.route))
                else:
                    raise
            else:
                outcomes.add(Outcome.EXECUTED)
                actions.extend(action for client in self._clients for action in client.actions)
        for outcome in (Outcome.EARLY, Outcome.EXECUTED, Outcome.DUPLICATE):
            if outcome in outcomes:
                return ExpectedOutcome(outcome, tuple(dict.fromkeys(actions)))
        return ExpectedOutcome(Outcome.IGNORED)

    def _rules(self, source: str) -> _SourceRules:
        found = self._sources.get(source)
        if found is None:
            compiler = Compiler(self._loaded.locate, self._loaded.config.vars)
            decoder = build_decoder(self._loaded, source, self._registries, compiler)
            router = build_router(self._loaded, source)
            found = self._sources[source] = _SourceRules(decoder, router, {**compiler.places, **router.places})
        return found

    def _place(self, error: BridgeError, source: str, route: str | None) -> str | None:
        """`file:line` of the part of the configuration that fails: the expression, schema or command; else the rule."""
        path: tuple[str | int, ...] | None = None
        if isinstance(error, MessageError):
            path = self._rules(source).places.get(error.expression)
        if path is None and isinstance(error, SchemaError) and route is None:
            path = ("sources", source, "schema")
        for index, each in enumerate(self._loaded.config.routes):
            if path is None and each.name == route:
                member = "schema" if isinstance(error, SchemaError) else each.command
                path = ("routes", index, member)
        if path is None:
            return None
        found = self._loaded.locate(path, "")
        return f"{found.file}:{found.line}"

    @staticmethod
    def _failure(error: BridgeError, dead_letter: DeadLetter, where: str | None) -> ExpectedOutcome:
        detail = detail_of(error)
        same = error.reason == dead_letter.reason and general(detail) == general(dead_letter.detail)
        return ExpectedOutcome(Outcome.DEAD_LETTERED, (), error.reason, detail, where, same)


def _accepted(steps: Sequence[RoutedCommand]) -> ExpectedOutcome:
    """ExpectedOutcome if the engine accepts every command."""
    if not steps:
        return ExpectedOutcome(Outcome.IGNORED)
    return ExpectedOutcome(Outcome.EXECUTED, tuple(dict.fromkeys(_action(step.command) for step in steps)))


def _action(command: Command) -> str:
    match command:
        case ScheduleOrchestration(orchestration=name):
            return f"start {name}"
        case StartOrRaise(orchestration=name, event=event):
            return f"start {name} or raise {event}"
        case RaiseEvent(name=name) | Cancel(event=name):
            return f"raise {name}"
        case SignalEntity(entity=entity, operation=operation):
            return f"signal {entity} {operation}"
        case _:
            return type(command).__name__.lower()


@dataclass(slots=True)
class Line:
    """Dead letters of which the same would become."""

    text: str
    outcome: Outcome
    detail: str
    example: str
    count: int = 0


@dataclass(slots=True)
class DryRunReport:
    """Result of a check. lines: most numerous first."""

    lines: list[Line]

    @property
    def total(self) -> int:
        """Number of dead letters."""
        return sum(line.count for line in self.lines)

    @property
    def failing(self) -> int:
        """Number of dead letters that would fail again."""
        return sum(line.count for line in self.lines if line.outcome is Outcome.DEAD_LETTERED)

    def to_dict(self) -> dict[str, Any]:
        """DryRunReport as JSON types."""
        return {
            "total": self.total,
            "failing": self.failing,
            "lines": [
                {
                    "count": line.count,
                    "outcome": line.outcome.value,
                    "would": line.text,
                    "detail": line.detail,
                    "example": line.example,
                }
                for line in self.lines
            ],
        }


async def expected(
    loaded: Loaded,
    dead_letter: DeadLetter,
    message: Message,
    source: str,
    running: Mapping[str, Engine] | None = None,
) -> ExpectedOutcome:
    """Decide about one dead letter. message: the message with its body, which may be an edited one.

    running: engines by name, for a process that has them open. Raises: ConfigError, EngineOutage.
    """
    async with AsyncExitStack() as opened:
        engines = running
        if engines is None:
            engines = {name: await opened.enter_async_context(attached(loaded, name)) for name in loaded.config.engines}
        registries = build_registries(loaded)
        for registry in registries.values():
            opened.push_async_callback(registry.close)
        return await DryRun(loaded, engines, registries).verdict(dead_letter, message, source)


async def checked(
    loaded: Loaded,
    rules: Loaded,
    selection: DeadLetterSelection,
    offline: bool,
    progress: Callable[[int], None],
    limit: int | None = None,
    running: Mapping[str, Engine] | None = None,
) -> DryRunReport:
    """DryRun the selected dead letters.

    loaded: configuration whose sources have the dead letters.
    rules: configuration that decides. The engines of its names are asked, unless `offline`.
    running: engines by name, for a process that has them open.
    Raises: ConfigError, BrokerError, BrokerUnavailable, EngineOutage.
    """
    lines: dict[tuple[str, str], Line] = {}
    async with AsyncExitStack() as opened:
        engines = running
        if not offline and running is None:
            engines = {
                name: await opened.enter_async_context(
                    attached(loaded if name in loaded.config.engines else rules, name)
                )
                for name in rules.config.engines
            }
        registries = build_registries(rules)
        for registry in registries.values():
            opened.push_async_callback(registry.close)
        check = DryRun(rules, engines, registries)
        count = 0
        states = None if offline else PlaceStates(loaded, opened, running)
        async for place, dead_letter, message in visit(loaded, selection, limit, states):
            stated = dead_letter.source
            source = stated if stated is not None and stated in rules.config.sources else place.sources[0]
            if source not in rules.config.sources:
                verdict = ExpectedOutcome(
                    Outcome.DEAD_LETTERED, (), "no_source", f"there is no source {source!r} any more"
                )
            else:
                verdict = await check.verdict(dead_letter, message, source)
            detail = general(verdict.detail or "")
            line = lines.get((verdict.text, detail))
            if line is None:
                line = Line(verdict.text, verdict.outcome, verdict.detail or "", dead_letter.id)
                lines[verdict.text, detail] = line
            line.count += 1
            count += 1
            progress(count)
    return DryRunReport(sorted(lines.values(), key=lambda line: -line.count))
