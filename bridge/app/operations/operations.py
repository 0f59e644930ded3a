"""Table of operations. Each has one name, one place in the API, one role, and one function.

The CLI and the control channel both use `perform`, which writes the audit line of every change. A new operation is one
more line in `OPERATIONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AwareDatetime, BeforeValidator, Field

from bridge.app import state
from bridge.app.connection import chosen
from bridge.app.operations import limits, positions
from bridge.app.operations.canary import CANARY_OPERATIONS
from bridge.app.operations.configuration import CONFIGURATION_OPERATIONS
from bridge.app.operations.dead_letters.operations import DEAD_LETTER_OPERATIONS
from bridge.app.operations.decisions import DECISION_OPERATIONS
from bridge.app.operations.entities import Entities
from bridge.app.operations.erase import Erasure, condition_of
from bridge.app.operations.instance_reads import INSTANCE, INSTANCE_READS, OneInstance
from bridge.app.operations.instances.instances import Filter, Instances, Start
from bridge.app.operations.job_operations import JOB_OPERATIONS
from bridge.app.operations.keys import Keys
from bridge.app.operations.operation import LONGEST_SECONDS, NEW, TABLE, Operation, Parameters, Scene
from bridge.app.operations.read_operations import READ_OPERATIONS
from bridge.app.operations.route_limits import LIMIT_OPERATIONS
from bridge.app.operations.waiting_jobs import WAITING_OPERATIONS
from bridge.core.errors import ConfigError, InvalidCommand
from bridge.core.origin import MessageOrigin, UnknownEnvelope, check
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.engines.source_seeks import SourceSeeks, pending
from bridge.quarantine.operations import QuarantineOperations
from bridge.quarantine.orphaned import refuse_release


class Message(Parameters):
    """Parameters of an operation that counts as a message.

    bare: it does not.
    message_id: random when None.
    """

    message_id: str | None = None
    bare: bool = False

    def origin(self, what: str) -> MessageOrigin | None:
        if self.message_id == "":
            raise InvalidCommand("`message_id` is empty")
        return None if self.bare else MessageOrigin(self.message_id or str(uuid4()), what)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class StartInstance(Message):
    orchestration: str
    input: Any = None
    instance_id: str | None = None
    start_at: AwareDatetime | None = None
    delay: float | None = Field(None, ge=0, le=LONGEST_SECONDS)
    version: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)


class RaiseEvent(Message, OneInstance):
    event: str
    data: Any = None


class TerminateInstance(OneInstance):
    output: Any = None
    recursive: bool = True


class RestartInstance(OneInstance):
    new_id: bool = False


class PurgeInstance(OneInstance):
    recursive: bool = True


class Selection(Parameters):
    statuses: tuple[Literal["COMPLETED", "FAILED", "TERMINATED"], ...]
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None
    recursive: bool = True


class SignalEntity(Message):
    entity: str
    key: str
    operation: str
    input: Any = None
    at: AwareDatetime | None = None
    delay: float | None = Field(None, ge=0, le=LONGEST_SECONDS)


class CleanEntities(Parameters):
    empty: bool = True
    locks: bool = True


class QuarantinedKeys(Parameters):
    """Quarantined key of a source; `all`: every key of the source."""

    source: str
    key: str | None = None
    all: bool = False

    @property
    def target(self) -> str:
        return f"{self.source} {'*' if self.all else self.key}"


class DropEarly(OneInstance):
    """Early messages of an instance.

    ids: only these.
    forget: write no dead letters.
    """

    ids: tuple[str, ...] = ()
    forget: bool = False


class DropQuarantined(Parameters):
    """Quarantined messages of a key.

    ids: only these.
    forget: write no dead letters.
    """

    source: str
    key: str
    ids: tuple[str, ...] = ()
    forget: bool = False


class PauseSource(Parameters):
    source: str


class ResumeSource(Parameters):
    source: str
    route: str | None = None


class OneSource(Parameters):
    source: str


class PlanSeek(OneSource):
    """Move of a source's positions.

    to: `beginning`, `end`, an offset, a time, or a duration like `2h-ago`.
    topic, partition: only these; None: all.
    """

    to: str
    topic: str | None = None
    partition: Annotated[int | None, BeforeValidator(_number)] = None


class SeekSource(OneSource):
    """Moves of a source's positions. positions: offsets by partition, like `orders/0`."""

    positions: Mapping[str, int]


class OneKey(Parameters):
    key: str


class Erase(Parameters):
    where: str


class OneMessage(Parameters):
    """Identity, event id, position or ordering key of messages."""

    message: str


class ListEarly(Parameters):
    prefix: str | None = None
    source: str | None = None


class ListQuarantined(Parameters):
    source: str | None = None


class ListEntities(Parameters):
    entity: str | None = None
    key_prefix: str | None = None
    modified_from: AwareDatetime | None = None
    modified_to: AwareDatetime | None = None
    state: bool = False
    transient: bool = False


class OneEntity(Parameters):
    entity: str
    key: str


async def _start(scene: Scene, given: StartInstance) -> Any:
    if given.start_at is not None and given.delay is not None:
        raise InvalidCommand("use either `start_at` or `delay`")
    message = given.origin("bridge instances start")
    start = Start(
        given.orchestration, _checked(given.input), given.instance_id, given.start_at, given.delay, given.version,
        given.tags,
    )  # fmt: skip
    instance_id, new = await Instances(await scene.engine()).start(start, message)
    return {"instance_id": instance_id, "message_id": message and message.message_id, "repeated": not new}


async def _raise(scene: Scene, given: RaiseEvent) -> Any:
    message = given.origin("bridge instances raise")
    data = _checked(given.data)
    new = await Instances(await scene.engine()).raise_event(given.instance_id, given.event, data, message)
    id_ = message and message.message_id
    return {"instance_id": given.instance_id, "event": given.event, "message_id": id_, "repeated": not new}


async def _suspend(scene: Scene, given: OneInstance) -> Any:
    await Instances(await scene.engine()).suspend(given.instance_id, given.reason)
    return {"instance_id": given.instance_id}


async def _resume(scene: Scene, given: OneInstance) -> Any:
    await Instances(await scene.engine()).resume(given.instance_id, given.reason)
    return {"instance_id": given.instance_id}


async def _terminate(scene: Scene, given: TerminateInstance) -> Any:
    output = _checked(given.output)
    await Instances(await scene.engine()).terminate(given.instance_id, output, recursive=given.recursive)
    return {"instance_id": given.instance_id}


async def _restart(scene: Scene, given: RestartInstance) -> Any:
    return {"instance_id": await Instances(await scene.engine()).restart(given.instance_id, new_id=given.new_id)}


async def _rewind(scene: Scene, given: OneInstance) -> Any:
    await Instances(await scene.engine()).rewind(given.instance_id, given.reason)
    return {"instance_id": given.instance_id}


async def _purge(scene: Scene, given: PurgeInstance) -> Any:
    return {"purged": await Instances(await scene.engine()).purge(given.instance_id, recursive=given.recursive)}


async def _purge_by(scene: Scene, given: Selection) -> Any:
    if not given.statuses:
        raise InvalidCommand("`statuses` is empty")
    filter_ = Filter(given.statuses, None, given.created_from, given.created_to)
    count, complete = await Instances(await scene.engine()).purge_by(filter_, recursive=given.recursive)
    return {"purged": count, "complete": complete}


async def _signal(scene: Scene, given: SignalEntity) -> Any:
    if given.at is not None and given.delay is not None:
        raise InvalidCommand("use either `at` or `delay`")
    message = given.origin("bridge entities signal")
    await Entities(await scene.engine()).signal(
        given.entity, given.key, given.operation, _checked(given.input), given.at, given.delay, message
    )
    id_ = message and message.message_id
    return {"entity": given.entity, "key": given.key, "operation": given.operation, "message_id": id_}


async def _clean(scene: Scene, given: CleanEntities) -> Any:
    result = await Entities(await scene.engine()).clean(empty=given.empty, locks=given.locks)
    return {"removed": result.empty_entities_removed, "released": result.orphaned_locks_released}


async def _release_early(scene: Scene, given: OneInstance) -> Any:
    return asdict(await EarlyMessageOperations(await scene.engine()).release(given.instance_id))


async def _drop_early(scene: Scene, given: DropEarly) -> Any:
    early = EarlyMessageOperations(await scene.engine())
    return asdict(await early.drop(given.instance_id, given.ids, forget=given.forget))


async def _release_quarantined(scene: Scene, given: QuarantinedKeys) -> Any:
    if given.all == (given.key is not None):
        raise InvalidCommand("name `key` or `all`")
    quarantine = QuarantineOperations(await scene.engine())
    refuse_release(scene.loaded, given.source, chosen(scene.loaded, given.engine))
    keys = await quarantine.keys(given.source) if given.all else [given.key or ""]
    return [asdict(await quarantine.release(given.source, key)) for key in keys]


async def _drop_quarantined(scene: Scene, given: DropQuarantined) -> Any:
    quarantine = QuarantineOperations(await scene.engine())
    return asdict(await quarantine.drop(given.source, given.key, given.ids, forget=given.forget))


async def _pause_source(scene: Scene, given: PauseSource) -> Any:
    pause = await limits.pause(scene.loaded, await scene.engine(), given.source, scene.actor.name, given.reason or "")
    return {"source": given.source, "since": pause.since}


async def _resume_source(scene: Scene, given: ResumeSource) -> Any:
    paused, routes = await limits.resume(scene.loaded, await scene.engine(), given.source, given.route)
    return {"source": given.source, "paused": paused, "routes": routes}


async def _lag(scene: Scene, given: OneSource) -> Any:
    return await positions.lag(scene.loaded, given.source)


async def _plan_seek(scene: Scene, given: PlanSeek) -> Any:
    return await positions.plan(scene.loaded, given.source, given.to, given.topic, given.partition)


async def _seeks(scene: Scene, given: OneSource) -> Any:
    return await SourceSeeks(await scene.engine()).of(given.source)


async def _seek_source(scene: Scene, given: SeekSource) -> Any:
    return await positions.seek(
        scene.loaded, await scene.engine(), given.source, given.positions, scene.actor.name, given.reason or ""
    )


async def _cancel_seek(scene: Scene, given: OneSource) -> Any:
    engine = await scene.engine()
    limits.check_engine(scene.loaded, engine, given.source)
    seeks = SourceSeeks(engine)
    left = pending(await seeks.of(given.source))
    await seeks.cancel(given.source)
    return {"cancelled": sorted(left)}


async def _rotate(scene: Scene, given: Parameters) -> Any:
    return asdict(await Keys(await scene.engine()).rotate())


async def _retire(scene: Scene, given: OneKey) -> Any:
    await Keys(await scene.engine()).retire(given.key)
    return {"id": given.key}


async def _entities(scene: Scene, given: ListEntities) -> Any:
    found = await Entities(await scene.engine()).list(
        given.entity, given.key_prefix, given.modified_from, given.modified_to,
        state=given.state, transient=given.transient,
    )  # fmt: skip
    return [asdict(one) for one in found]


async def _entity(scene: Scene, given: OneEntity) -> Any:
    return asdict(await Entities(await scene.engine()).show(given.entity, given.key))


async def _sources(scene: Scene, given: Parameters) -> Any:
    return await limits.states_on(scene.loaded, await scene.engines(given.engine))


async def _keys(scene: Scene, given: Parameters) -> Any:
    return [asdict(one) for one in await Keys(await scene.engine()).list()]


async def _erase(scene: Scene, given: Erase) -> Any:
    try:
        condition = condition_of(given.where)
    except ConfigError as error:
        raise InvalidCommand(f"`where`: {'; '.join(problem.what for problem in error.problems)}") from None
    erasure = Erasure(await scene.engine(), condition, dry_run=False)
    return [asdict(one) async for one in erasure.run()]


async def _early(scene: Scene, given: ListEarly) -> Any:
    return [asdict(one) for one in await EarlyMessageOperations(await scene.engine()).list(given.prefix, given.source)]


async def _quarantined(scene: Scene, given: ListQuarantined) -> Any:
    return [asdict(one) for one in await QuarantineOperations(await scene.engine()).list(given.source)]


async def _unprocessed_early(scene: Scene, given: Parameters) -> Any:
    return {"count": await EarlyMessageOperations(await scene.engine()).unprocessed()}


async def _unprocessed_quarantined(scene: Scene, given: Parameters) -> Any:
    return {"count": await QuarantineOperations(await scene.engine()).unprocessed()}


async def _in_flight(scene: Scene, given: OneMessage) -> Any:
    return None if scene.in_flight is None else list(scene.in_flight(given.message))


async def _engines(scene: Scene, given: Parameters) -> Any:
    return [
        {"name": name, "type": config.type, "fingerprint": state.fingerprint(scene.loaded, name), "table": TABLE}
        for name, config in scene.loaded.config.engines.items()
    ]


def _checked(value: Any) -> Any:
    try:
        check(value)
    except UnknownEnvelope as error:
        raise InvalidCommand(str(error)) from None
    return value


def _instance(given: OneInstance) -> str:
    return given.instance_id


_OF_ENTITY = frozenset({"state"})
OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("engines.list", "reader", "engines", Parameters, _engines),
    Operation(
        "instances.start", "operator", "instances", StartInstance, _start,
        lambda given: given.instance_id or NEW, lambda given: {"orchestration": given.orchestration},
    ),
    Operation(
        "instances.raise", "operator", f"{INSTANCE}:raise", RaiseEvent, _raise, _instance,
        lambda given: {"event": given.event},
    ),
    Operation("instances.suspend", "operator", f"{INSTANCE}:suspend", OneInstance, _suspend, _instance),
    Operation("instances.resume", "operator", f"{INSTANCE}:resume", OneInstance, _resume, _instance),
    Operation(
        "instances.terminate", "operator", f"{INSTANCE}:terminate", TerminateInstance, _terminate, _instance,
        lambda given: {"recursive": given.recursive},
    ),
    Operation(
        "instances.restart", "operator", f"{INSTANCE}:restart", RestartInstance, _restart, _instance,
        lambda given: {"new_id": given.new_id},
    ),
    Operation("instances.rewind", "operator", f"{INSTANCE}:rewind", OneInstance, _rewind, _instance),
    Operation(
        "instances.purge", "admin", f"{INSTANCE}:purge", PurgeInstance, _purge, _instance,
        lambda given: {"recursive": given.recursive},
    ),
    Operation(
        "instances.purge_by", "admin", "instances:purge", Selection, _purge_by,
        filter=lambda given: given.model_dump(mode="json", exclude={"engine", "reason"}),
    ),
    Operation(
        "entities.list", "reader", "entities", ListEntities, _entities, payloads=_OF_ENTITY,
        reads_payloads=lambda given: given.state,
    ),
    Operation("entities.show", "reader", "entities/{entity}/{key}", OneEntity, _entity, payloads=_OF_ENTITY),
    Operation(
        "entities.signal", "operator", "entities/{entity}/{key}:signal", SignalEntity, _signal,
        lambda given: f"{given.entity}@{given.key}", lambda given: {"operation": given.operation},
    ),
    Operation(
        "entities.clean", "operator", "entities:clean", CleanEntities, _clean,
        filter=lambda given: {"empty": given.empty, "locks": given.locks},
    ),
    Operation("early.list", "reader", "early", ListEarly, _early),
    Operation("early.unprocessed", "reader", "early:unprocessed", Parameters, _unprocessed_early),
    Operation("early.release", "operator", "early/{instance_id}:release", OneInstance, _release_early, _instance),
    Operation(
        "early.drop", "admin", "early/{instance_id}:drop", DropEarly, _drop_early, _instance,
        lambda given: {"ids": given.ids, "forget": given.forget},
    ),
    Operation("quarantine.list", "reader", "quarantine", ListQuarantined, _quarantined),
    Operation("quarantine.unprocessed", "reader", "quarantine:unprocessed", Parameters, _unprocessed_quarantined),
    Operation(
        "quarantine.release", "operator", "quarantine:release", QuarantinedKeys, _release_quarantined,
        lambda given: given.target,
    ),
    Operation(
        "quarantine.drop", "admin", "quarantine:drop", DropQuarantined, _drop_quarantined,
        lambda given: f"{given.source} {given.key}", lambda given: {"ids": given.ids, "forget": given.forget},
    ),
    Operation("sources.list", "reader", "sources", Parameters, _sources),
    Operation(
        "sources.pause", "operator", "sources/{source}:pause", PauseSource, _pause_source, lambda given: given.source,
        place=limits.place,
    ),
    Operation(
        "sources.resume", "operator", "sources/{source}:resume", ResumeSource, _resume_source,
        lambda given: given.source, lambda given: {"route": given.route}, place=limits.place,
    ),
    Operation("sources.lag", "reader", "sources/{source}/lag", OneSource, _lag),
    Operation("sources.seek.plan", "reader", "sources/{source}/seek:plan", PlanSeek, _plan_seek),
    Operation("sources.seek.show", "reader", "sources/{source}/seek", OneSource, _seeks, place=limits.place),
    Operation(
        "sources.seek", "operator", "sources/{source}:seek", SeekSource, _seek_source, lambda given: given.source,
        lambda given: {"positions": given.positions}, place=limits.place,
    ),
    Operation(
        "sources.seek.cancel", "operator", "sources/{source}/seek:cancel", OneSource, _cancel_seek,
        lambda given: given.source, place=limits.place,
    ),
    Operation("messages.show", "reader", "messages/{message}", OneMessage, _in_flight),
    Operation("keys.list", "reader", "keys", Parameters, _keys),
    Operation("keys.rotate", "admin", "keys:rotate", Parameters, _rotate),
    Operation("keys.retire", "admin", "keys/{key}:retire", OneKey, _retire, lambda given: given.key),
    Operation(
        "erase", "admin", "payloads:erase", Erase, _erase,
        # The condition may name a person
        filter=lambda given: {"where_sha256": hashlib.sha256(given.where.encode("utf-8", "surrogatepass")).hexdigest()},
    ),
    *INSTANCE_READS,
    *CANARY_OPERATIONS,
    *CONFIGURATION_OPERATIONS,
    *LIMIT_OPERATIONS,
    *DEAD_LETTER_OPERATIONS,
    *JOB_OPERATIONS,
    *WAITING_OPERATIONS,
    *READ_OPERATIONS,
    *DECISION_OPERATIONS,
)  # fmt: skip
BY_NAME: Mapping[str, Operation[Any]] = {operation.name: operation for operation in OPERATIONS}
