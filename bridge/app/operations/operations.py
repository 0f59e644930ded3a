"""Table of operations. Each has one name, one place in the API, one role, and one function.

The CLI and the control channel both use `perform`, which writes the audit line of every change. A new operation is one
more line in `OPERATIONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from typing_extensions import TypedDict

from bridge.app import state
from bridge.app.operations.canary import CANARY_OPERATIONS
from bridge.app.operations.configuration import CONFIGURATION_OPERATIONS
from bridge.app.operations.dead_letters.operations import DEAD_LETTER_OPERATIONS
from bridge.app.operations.dead_letters.reads import DEAD_LETTER_READS
from bridge.app.operations.decisions import DECISION_OPERATIONS
from bridge.app.operations.drain import DRAIN_OPERATIONS
from bridge.app.operations.entities import ENTITY_OPERATIONS
from bridge.app.operations.erase import Erasure, ErasureFinding, condition_of
from bridge.app.operations.instance_changes import INSTANCE_CHANGES
from bridge.app.operations.instance_reads import INSTANCE_READS
from bridge.app.operations.instances.sagas import SAGA_OPERATIONS
from bridge.app.operations.job_operations import JOB_OPERATIONS
from bridge.app.operations.keys import KeyInfo, KeyOperations
from bridge.app.operations.operation import TABLE, Operation, Parameters, Scene
from bridge.app.operations.read_operations import READ_OPERATIONS
from bridge.app.operations.route_limits import LIMIT_OPERATIONS
from bridge.app.operations.scaling import SCALING_OPERATIONS
from bridge.app.operations.source_operations import SOURCE_OPERATIONS
from bridge.app.operations.waiting_jobs import WAITING_JOBS
from bridge.app.operations.waiting_operations import WAITING_OPERATIONS
from bridge.core.errors import ConfigError, InvalidCommand
from bridge.pipeline.in_flight_search import InFlightMessage


class OneKey(Parameters):
    key: str


class Erase(Parameters):
    """Payloads to erase. dry_run: only list them."""

    where: str
    dry_run: bool = False


class OneMessage(Parameters):
    """Identity, event id, position or ordering key of messages."""

    message: str


class EngineResult(TypedDict):
    name: str
    type: str
    fingerprint: str
    table: int


class KeyId(TypedDict):
    id: str


async def _engines(scene: Scene, given: Parameters) -> Any:
    return [
        {"name": name, "type": config.type, "fingerprint": state.fingerprint(scene.loaded, name), "table": TABLE}
        for name, config in scene.loaded.config.engines.items()
    ]


async def _in_flight(scene: Scene, given: OneMessage) -> Any:
    return None if scene.in_flight is None else list(scene.in_flight(given.message))


async def _keys(scene: Scene, given: Parameters) -> Any:
    return [asdict(one) for one in await KeyOperations(await scene.engine()).list()]


async def _rotate(scene: Scene, given: Parameters) -> Any:
    return asdict(await KeyOperations(await scene.engine()).rotate())


async def _retire(scene: Scene, given: OneKey) -> Any:
    await KeyOperations(await scene.engine()).retire(given.key)
    return {"id": given.key}


async def _erase(scene: Scene, given: Erase) -> Any:
    try:
        condition = condition_of(given.where)
    except ConfigError as error:
        raise InvalidCommand(f"`where`: {'; '.join(problem.what for problem in error.problems)}") from None
    erasure = Erasure(await scene.engine(), condition, dry_run=given.dry_run)
    return [asdict(one) async for one in erasure.run()]


OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("engines.list", "reader", "engines", Parameters, _engines, list[EngineResult]),
    Operation("messages.show", "reader", "messages/{message}", OneMessage, _in_flight, list[InFlightMessage]),
    Operation("keys.list", "reader", "keys", Parameters, _keys, list[KeyInfo]),
    Operation("keys.rotate", "admin", "keys:rotate", Parameters, _rotate, KeyInfo),
    Operation("keys.retire", "admin", "keys/{key}:retire", OneKey, _retire, KeyId, lambda given: given.key),
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
    *INSTANCE_READS,
    *INSTANCE_CHANGES,
    *SAGA_OPERATIONS,
    *ENTITY_OPERATIONS,
    *DRAIN_OPERATIONS,
    *WAITING_OPERATIONS,
    *WAITING_JOBS,
    *SOURCE_OPERATIONS,
    *CANARY_OPERATIONS,
    *CONFIGURATION_OPERATIONS,
    *LIMIT_OPERATIONS,
    *DEAD_LETTER_OPERATIONS,
    *DEAD_LETTER_READS,
    *JOB_OPERATIONS,
    *READ_OPERATIONS,
    *DECISION_OPERATIONS,
    *SCALING_OPERATIONS,
)  # fmt: skip
BY_NAME: Mapping[str, Operation[Any]] = {operation.name: operation for operation in OPERATIONS}
