"""Operations on early and quarantined messages, by instance or key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from typing_extensions import TypedDict

from bridge.app.connection import chosen
from bridge.app.operations.cursors import InParts, cursor_at, part_size, place_of
from bridge.app.operations.instances.reads import OneInstance, instance_target
from bridge.app.operations.operation import Ids, Operation, Parameters, Scene
from bridge.core.errors import InvalidCommand
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.quarantine.operations import QuarantineOperations
from bridge.quarantine.orphaned import refuse_release
from bridge.waiting.operations import WaitingChange, WaitingMessage, WaitingPlace


class ReleaseQuarantined(Parameters):
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

    ids: Ids = ()
    forget: bool = False


class DropQuarantined(Parameters):
    """Quarantined messages of a key.

    ids: only these.
    forget: write no dead letters.
    """

    source: str
    key: str
    ids: Ids = ()
    forget: bool = False


class ListEarly(InParts):
    prefix: str | None = None
    source: str | None = None


class ListQuarantined(InParts):
    source: str | None = None


class WaitingPart(TypedDict):
    """Part of the waiting messages, by instance or key, the oldest of each first. next: cursor of the next part."""

    next: str | None
    messages: list[WaitingMessage]


class Unprocessed(TypedDict):
    """Number of entities with operations that no worker has processed."""

    count: int


async def _release_early(scene: Scene, given: OneInstance) -> Any:
    return asdict(await EarlyMessageOperations(await scene.engine()).release(given.instance_id))


async def _drop_early(scene: Scene, given: DropEarly) -> Any:
    early = EarlyMessageOperations(await scene.engine())
    return asdict(await early.drop(given.instance_id, given.ids, forget=given.forget))


async def _release_quarantined(scene: Scene, given: ReleaseQuarantined) -> Any:
    if given.all == (given.key is not None):
        raise InvalidCommand("name `key` or `all`")
    quarantine = QuarantineOperations(await scene.engine())
    refuse_release(scene.loaded, given.source, chosen(scene.loaded, given.engine))
    keys = await quarantine.keys(given.source) if given.all else [given.key or ""]
    return [asdict(await quarantine.release(given.source, key)) for key in keys]


async def _drop_quarantined(scene: Scene, given: DropQuarantined) -> Any:
    quarantine = QuarantineOperations(await scene.engine())
    return asdict(await quarantine.drop(given.source, given.key, given.ids, forget=given.forget))


async def _early(scene: Scene, given: ListEarly) -> Any:
    early = EarlyMessageOperations(await scene.engine())
    if given.cursor is None:
        return [asdict(one) for one in (await early.list(given.prefix, given.source))[: given.limit]]
    after = _after("early", given.cursor)
    return _part("early", await early.part(part_size(given.limit), after, given.prefix, given.source))


async def _quarantined(scene: Scene, given: ListQuarantined) -> Any:
    quarantine = QuarantineOperations(await scene.engine())
    if given.cursor is None:
        return [asdict(one) for one in (await quarantine.list(given.source))[: given.limit]]
    after = _after("quarantine", given.cursor)
    return _part("quarantine", await quarantine.part(part_size(given.limit), after, given.source))


def _after(name: str, cursor: str) -> WaitingPlace:
    """Place of a cursor. name: of the list. Raises: InvalidCommand."""
    place = place_of(name, cursor, (int, str, str, str, str))
    return WaitingPlace() if place is None else WaitingPlace(*cast(Any, place))


def _part(name: str, found: tuple[Sequence[WaitingMessage], WaitingPlace | None]) -> Any:
    part, more = found
    return {"next": None if more is None else cursor_at(name, more), "messages": [asdict(one) for one in part]}


async def _unprocessed_early(scene: Scene, given: Parameters) -> Any:
    return {"count": await EarlyMessageOperations(await scene.engine()).unprocessed()}


async def _unprocessed_quarantined(scene: Scene, given: Parameters) -> Any:
    return {"count": await QuarantineOperations(await scene.engine()).unprocessed()}


WAITING_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("early.list", "reader", "early", ListEarly, _early, list[WaitingMessage] | WaitingPart),
    Operation("early.unprocessed", "reader", "early:unprocessed", Parameters, _unprocessed_early, Unprocessed),
    Operation(
        "early.release", "operator", "early/{instance_id}:release", OneInstance, _release_early, WaitingChange,
        instance_target,
    ),
    Operation(
        "early.drop", "admin", "early/{instance_id}:drop", DropEarly, _drop_early, WaitingChange, instance_target,
        lambda given: {"ids": given.ids, "forget": given.forget},
    ),
    Operation(
        "quarantine.list", "reader", "quarantine", ListQuarantined, _quarantined, list[WaitingMessage] | WaitingPart
    ),
    Operation(
        "quarantine.unprocessed", "reader", "quarantine:unprocessed", Parameters, _unprocessed_quarantined,
        Unprocessed,
    ),
    Operation(
        "quarantine.release", "operator", "quarantine:release", ReleaseQuarantined, _release_quarantined,
        list[WaitingChange], lambda given: given.target,
    ),
    Operation(
        "quarantine.drop", "admin", "quarantine:drop", DropQuarantined, _drop_quarantined, WaitingChange,
        lambda given: f"{given.source} {given.key}", lambda given: {"ids": given.ids, "forget": given.forget},
    ),
)  # fmt: skip
