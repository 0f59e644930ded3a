"""Operations on durable entities of a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from durabletask.client import CleanEntityStorageResult, EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata
from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from bridge.app.connection import payload
from bridge.app.operations.cursors import InParts, cursor_at, part_size, place_of
from bridge.app.operations.operation import LONGEST_SECONDS, MessageParameters, Operation, Parameters, Scene, checked
from bridge.core import commands
from bridge.core.answers import LaterKeys, SigningKeyring
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.core.origin import MessageOrigin
from bridge.core.system_names import PREFIX
from bridge.engines.base import Engine
from bridge.engines.commands.answers import ANSWERS
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.entity_client import EntityFilter
from bridge.engines.sdk_internals import lock_holder
from bridge.routing.identifier import check_entity, check_name
from bridge.system.clock import stamp, time_of
from bridge.workflow.entity import bare_state


@dataclass(frozen=True, slots=True)
class EntityInfo:
    """Current state of one entity.

    state: a JSON value; None when not requested.
    locked_by: an orchestration's id.
    """

    entity: str
    key: str
    last_modified_at: str
    backlog: int
    locked_by: str | None
    state: Any


class EntityOperations:
    """Entities of one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client
        self._execute = CommandRunner(engine).execute

    async def list(
        self,
        name: str | None,
        key_prefix: str | None,
        modified_from: datetime | None,
        modified_to: datetime | None,
        *,
        state: bool,
        transient: bool,
    ) -> Sequence[EntityInfo]:
        """Entities by name and key prefix, sorted. transient: include entities without state."""
        query = EntityQuery(
            _prefix(name, key_prefix) or None,
            modified_from,
            modified_to,
            include_state=state,
            include_transient=transient,
        )
        found = await self._client.get_all_entities(query)
        return sorted((_entity(metadata, state) for metadata in found), key=lambda one: (one.entity, one.key))

    async def page(self, given: ListEntities, token: str | None, size: int) -> tuple[Sequence[EntityInfo], str | None]:
        """Entities in the order of the engine, and the token of the page after them; None after the last one."""
        wanted = EntityFilter(
            _prefix(given.entity, given.key_prefix),
            given.modified_from,
            given.modified_to,
            given.state,
            given.transient,
        )
        page, following = await self._client.entity_page(wanted, token, size, what="list entities")
        return [_entity(each, given.state) for each in page], following

    async def show(self, name: str, key: str) -> EntityInfo:
        """Read one entity. Raises: InstanceNotFound, InvalidCommand."""
        if not name.lower().startswith(PREFIX):
            check_entity(name, key)
        try:
            id_ = EntityInstanceId(name, key)
        except ValueError as error:  # the name or key of one of the bridge's own entities
            raise InvalidCommand(str(error)) from None
        found = await self._client.get_entity(id_, what=f"show entity {name}@{key}")
        if found is None:
            raise InstanceNotFound(f"no entity {name}@{key} exists")
        return _entity(found, state=True)

    async def signal(
        self,
        name: str,
        key: str,
        operation: str,
        input_: Any,
        at: datetime | None,
        delay: float | None,
        origin: MessageOrigin | None = None,
    ) -> None:
        """Send a one-way operation. origin: message that the operation counts as. Raises: InvalidCommand."""
        check_entity(name, key)
        check_name(operation, "the operation's name")
        await self._execute(commands.SignalEntity(name, key, operation, input_, at, delay), origin)

    async def clean(self, *, empty: bool, locks: bool) -> CleanEntityStorageResult:
        """Remove entities without state, and release locks whose holders are gone."""
        return await self._client.clean_entity_storage(empty, locks)


def _prefix(name: str | None, key_prefix: str | None) -> str:
    """Prefix of the ids of entities; empty for all."""
    return "" if name is None else f"@{name.lower()}@{key_prefix or ''}"


def _state(metadata: EntityMetadata) -> Any:
    """State to display, without the secrets of the keys that sign requests."""
    found = bare_state(payload(metadata.get_state()))
    if metadata.id.entity.lower() != ANSWERS or found is None:
        return found
    try:
        ring = SigningKeyring.from_json(found)
    except LaterKeys:
        return {"keys": []}
    shown = [{"id": key.id, "made": time_of(key.made)} for key in ring.keys]
    return {"keys": shown, "damaged": ring.damaged} if ring.damaged else {"keys": shown}


def _entity(metadata: EntityMetadata, state: bool) -> EntityInfo:
    # Only an orchestration locks an entity, and its id has another form than an entity's
    return EntityInfo(
        metadata.id.entity,
        metadata.id.key,
        stamp(metadata.last_modified),
        metadata.backlog_queue_size,
        lock_holder(metadata),
        _state(metadata) if state else None,
    )


class SendSignal(MessageParameters):
    entity: str
    key: str
    operation: str
    input: Any = None
    at: AwareDatetime | None = None
    delay: float | None = Field(None, ge=0, le=LONGEST_SECONDS)


class CleanEntities(Parameters):
    empty: bool = True
    locks: bool = True


class ListEntities(InParts):
    entity: str | None = None
    key_prefix: str | None = None
    modified_from: AwareDatetime | None = None
    modified_to: AwareDatetime | None = None
    state: bool = False
    transient: bool = False


class EntitiesPart(TypedDict):
    """Part of the entities in the order of their ids, `@name@key`. next: cursor of the next part."""

    next: str | None
    entities: list[EntityInfo]


class OneEntity(Parameters):
    entity: str
    key: str


class Signalled(TypedDict):
    entity: str
    key: str
    operation: str
    message_id: str | None


class Cleaned(TypedDict):
    removed: int
    released: int


async def _signal(scene: Scene, given: SendSignal) -> Any:
    if given.at is not None and given.delay is not None:
        raise InvalidCommand("use either `at` or `delay`")
    message = given.origin("bridge entities signal")
    await EntityOperations(await scene.engine()).signal(
        given.entity, given.key, given.operation, checked(given.input), given.at, given.delay, message
    )
    id_ = message and message.message_id
    return {"entity": given.entity, "key": given.key, "operation": given.operation, "message_id": id_}


async def _clean(scene: Scene, given: CleanEntities) -> Any:
    result = await EntityOperations(await scene.engine()).clean(empty=given.empty, locks=given.locks)
    return {"removed": result.empty_entities_removed, "released": result.orphaned_locks_released}


async def _list(scene: Scene, given: ListEntities) -> Any:
    entities = EntityOperations(await scene.engine())
    if given.cursor is None:
        found = await entities.list(
            given.entity, given.key_prefix, given.modified_from, given.modified_to,
            state=given.state, transient=given.transient,
        )  # fmt: skip
        return [asdict(one) for one in found[: given.limit]]
    after = place_of(_CURSORS, given.cursor, (str,))
    page, token = await entities.page(given, None if after is None else str(after[0]), part_size(given.limit))
    more = None if token is None else cursor_at(_CURSORS, (token,))
    return {"next": more, "entities": [asdict(one) for one in page]}


async def _show(scene: Scene, given: OneEntity) -> Any:
    return asdict(await EntityOperations(await scene.engine()).show(given.entity, given.key))


_CURSORS = "entities"
"""Name of the list in its cursors."""
_OF_ENTITY = frozenset({"state"})
ENTITY_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "entities.list", "reader", "entities", ListEntities, _list, list[EntityInfo] | EntitiesPart,
        payloads=_OF_ENTITY, reads_payloads=lambda given: given.state,
    ),
    Operation("entities.show", "reader", "entities/{entity}/{key}", OneEntity, _show, EntityInfo, payloads=_OF_ENTITY),
    Operation(
        "entities.signal", "operator", "entities/{entity}/{key}:signal", SendSignal, _signal, Signalled,
        lambda given: f"{given.entity}@{given.key}", lambda given: {"operation": given.operation},
    ),
    Operation(
        "entities.clean", "operator", "entities:clean", CleanEntities, _clean, Cleaned,
        filter=lambda given: {"empty": given.empty, "locks": given.locks},
    ),
)  # fmt: skip
