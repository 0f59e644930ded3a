"""Removal of a person's payloads from an engine: matching items are purged or dropped, the others are listed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bridge.app.connection import attached, payload
from bridge.app.operations.entities import EntityOperations
from bridge.app.operations.instances.instances import InstanceFilter, InstanceInfo, InstanceOperations
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.model.sources import DEAD_LETTER_TOPIC
from bridge.config.source import Loaded
from bridge.core.errors import (
    ConfigError,
    EngineError,
    ExpressionCost,
    ExpressionError,
    InstanceNotFound,
    InvalidCommand,
    Problem,
)
from bridge.core.message import Message
from bridge.core.system_names import PREFIX
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.engines.base import Engine
from bridge.quarantine.operations import QuarantineOperations
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.projection import weigh
from bridge.routing.cel.scope import ExpressionScope
from bridge.waiting.operations import WaitingMessage

_AT_ONCE = 16
"""Number of instances that are read concurrently."""

VARIABLES = frozenset(("payload", "kind", "id", "name"))

ErasureProgress = Callable[[int, int], None]

ErasureState = Literal["found", "erased", "runs", "left"]


@dataclass(frozen=True, slots=True)
class ErasureFinding:
    """Item with a payload that matches the condition.

    kind: `instance`, `early`, `quarantined` or `entity`.
    name: name of the orchestration or entity, or of the source.
    state: `found` (dry run), `erased`, `runs` (an instance that has not finished) or `left` (kept, or not decided).
    detail: next step for the user.
    """

    kind: str
    id: str
    name: str
    state: ErasureState
    detail: str = ""


class PayloadScope(ExpressionScope):
    """Variables of the condition: one payload, and the item that contains it."""

    __slots__ = ("id", "kind", "name", "payload")

    def __init__(self, payload: Any, kind: str, id_: str, name: str) -> None:
        super().__init__()
        self.payload = payload
        self.kind = kind
        self.id = id_
        self.name = name


def condition_of(text: str) -> Expression:
    """Compile the condition of `--where`. Raises: ConfigError."""
    compiler = Compiler(lambda path, what: Problem("--where", 0, 0, "", what))
    found = compiler.condition(text, (), "--where", VARIABLES)
    if found is None:
        # The codes of `bridge check` are those of configurations
        raise ConfigError([replace(problem, code="") for problem in compiler.problems])
    return found


class Erasure:
    """One pass of an erasure over an engine."""

    def __init__(self, engine: Engine, condition: Expression, *, dry_run: bool) -> None:
        self._entities = EntityOperations(engine)
        self._instances = InstanceOperations(engine)
        self._early_messages = EarlyMessageOperations(engine)
        self._quarantine = QuarantineOperations(engine)
        self._condition = condition
        self._dry_run = dry_run

    async def run(self, progress: ErasureProgress = lambda done, all_: None) -> AsyncIterator[ErasureFinding]:
        """Erase matching items, and yield each finding.

        progress: called with the numbers of instances read and of all. Raises: EngineError.
        """
        async for finding in self._of_instances(progress):
            yield finding
        async for finding in self._of_messages():
            yield finding
        async for finding in self._of_entities():
            yield finding

    async def _of_instances(self, progress: ErasureProgress) -> AsyncIterator[ErasureFinding]:
        found = await self._instances.list(InstanceFilter(), payloads=False)
        for begin in range(0, len(found), _AT_ONCE):
            part = found[begin : begin + _AT_ONCE]
            held = await asyncio.gather(*(self._holds(each) for each in part))
            for instance, holds in zip(part, held, strict=True):
                if isinstance(holds, str):
                    detail = f"{holds}; look at it, and purge the instance if it belongs to the person"
                    yield ErasureFinding("instance", instance.instance_id, instance.name, "left", detail)
                elif holds:
                    yield await self._erased(instance)
            progress(begin + len(part), len(found))

    async def _holds(self, instance: InstanceInfo) -> bool | str:
        try:
            whole = await self._instances.show(instance.instance_id)
            history = await self._instances.history(instance.instance_id)
        except InstanceNotFound:
            return False
        payloads = [whole.input, whole.output, whole.custom_status]
        for event in history:
            for member in ("input", "data", "result", "correlation_data"):
                text = getattr(event, member, None)
                if isinstance(text, str):
                    payloads.append(payload(text))
        return self._matches(payloads, "instance", whole.instance_id, whole.name)

    async def _erased(self, instance: InstanceInfo) -> ErasureFinding:
        finding = ErasureFinding("instance", instance.instance_id, instance.name, "found")
        if not instance.finished:
            detail = f"the instance is {instance.status}: wait for its end or terminate it, then erase again"
            return replace(finding, state="runs", detail=detail)
        if not self._dry_run:
            await self._instances.purge(instance.instance_id, recursive=True)
            return replace(finding, state="erased")
        return finding

    async def _of_messages(self) -> AsyncIterator[ErasureFinding]:
        for waiting, message in [*await self._early_messages.messages(), *await self._quarantine.messages()]:
            kind = "early" if waiting.instance_id is not None else "quarantined"
            subject = waiting.instance_id if waiting.instance_id is not None else waiting.key or ""
            holds = self._matches(_bodies(message), kind, subject, waiting.source)
            finding = ErasureFinding(kind, subject, waiting.source, "found")
            if isinstance(holds, str):
                detail = f"{holds}; look at it, and drop the message if it belongs to the person"
                yield replace(finding, state="left", detail=detail)
                continue
            if not holds:
                continue
            yield finding if self._dry_run else await self._dropped(waiting, finding)

    async def _dropped(self, waiting: WaitingMessage, finding: ErasureFinding) -> ErasureFinding:
        try:
            if waiting.instance_id is not None:
                await self._early_messages.drop(waiting.instance_id, [waiting.id], forget=True)
            else:
                await self._quarantine.drop(waiting.source, waiting.key or "", [waiting.id], forget=True)
        except InstanceNotFound:
            return replace(finding, state="left", detail="the message was delivered or dropped meanwhile; erase again")
        except EngineError as error:
            return replace(finding, state="left", detail=str(error))
        return replace(finding, state="erased")

    async def _of_entities(self) -> AsyncIterator[ErasureFinding]:
        for each in await self._entities.list(None, None, None, None, state=True, transient=False):
            if each.entity.startswith(PREFIX):
                continue
            if holds := self._matches((each.state,), "entity", each.key, each.entity):
                detail = "the state belongs to your workflows; delete it with a signal to the entity"
                if isinstance(holds, str):
                    detail = f"{holds}; {detail} if it belongs to the person"
                yield ErasureFinding("entity", f"@{each.entity}@{each.key}", each.entity, "left", detail)

    def _matches(self, values: Iterable[Any], kind: str, id_: str, name: str) -> bool | str:
        """True when the condition is true for a payload; a sentence when it cannot be evaluated for one.

        A payload that lacks a member of the condition does not match.
        """
        undecided = ""
        for value in values:
            try:
                if self._condition.condition(PayloadScope(value, kind, id_, name)):
                    return True
            except ExpressionCost:
                undecided = "a payload is too large for the condition"
            except ExpressionError:
                # The error of a missing member says nothing about values that no condition can read
                undecided = undecided or _unreadable(value)
        return undecided or False


def _unreadable(value: Any) -> str:
    """Sentence about a payload that conditions cannot read; empty for any other."""
    try:
        weigh({"payload": value})
    except ExpressionError as error:
        return f"the condition cannot read a payload: {error}"
    return ""


def _bodies(message: Message) -> Iterator[Any]:
    """Payloads of a message: its JSON body and the data of a CloudEvent in it, else its text."""
    if message.body is None:
        return
    try:
        body = json.loads(message.body)
    except (ValueError, RecursionError):
        yield message.body.decode("utf-8", "replace")
        return
    yield body
    if isinstance(body, dict) and "specversion" in body:
        yield body.get("data")


async def preview(loaded: Loaded, engine: str | None, where: str, progress: ErasureProgress) -> list[ErasureFinding]:
    """Findings of an erasure, as a dry run. Raises: ConfigError, LookupError, EngineError."""
    condition = condition_of(where)
    async with attached(loaded, engine) as running:
        return [each async for each in Erasure(running, condition, dry_run=True).run(progress)]


def elsewhere(loaded: Loaded) -> list[str]:
    """Topics and queues of the configuration, which an erasure does not reach, sorted: `broker NAME: TOPIC`."""
    found = set()
    for source in loaded.config.sources.values():
        topics = [*source.topics, source.queue or source.topic or ""]
        for topic in filter(None, topics):
            found.add(f"{source.broker}: {topic}")
            dead_letters = source.dead_letter or DEAD_LETTER_TOPIC
            found.add(f"{source.broker}: {dead_letters.replace('{topic}', topic)}")
    found |= {f"{target.broker}: {target.address}" for target in loaded.config.targets.values()}
    return sorted(found)


class Erase(Parameters):
    """Payloads to erase. dry_run: only list them."""

    where: str
    dry_run: bool = False


async def _erase(scene: Scene, given: Erase) -> Any:
    try:
        condition = condition_of(given.where)
    except ConfigError as error:
        raise InvalidCommand(f"`where`: {'; '.join(problem.what for problem in error.problems)}") from None
    erasure = Erasure(await scene.engine(), condition, dry_run=given.dry_run)
    return [asdict(one) async for one in erasure.run()]


ERASE_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "erase", "admin", "payloads:erase", Erase, _erase, list[ErasureFinding],
        # The condition may name a person
        filter=lambda given: {
            "where_sha256": hashlib.sha256(given.where.encode("utf-8", "surrogatepass")).hexdigest(),
            **({"dry_run": True} if given.dry_run else {}),
        },
        # Trying conditions would tell what the payloads are; an erasure destroys what it tells
        reads_payloads=lambda given: given.dry_run,
    ),
)  # fmt: skip
