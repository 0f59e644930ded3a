"""Table of operations. Each has one name, one place in the API, one role, and one function.

The CLI and the control channel both use `perform`, which writes the audit line of every change. A new operation is one
more line in `OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.operations.audit import AUDIT_OPERATIONS
from bridge.app.operations.canary import CANARY_OPERATIONS
from bridge.app.operations.configuration import CONFIGURATION_OPERATIONS
from bridge.app.operations.dead_letters.operations import DEAD_LETTER_OPERATIONS
from bridge.app.operations.dead_letters.reads import DEAD_LETTER_READS
from bridge.app.operations.drain import DRAIN_OPERATIONS
from bridge.app.operations.engines import ENGINE_OPERATIONS
from bridge.app.operations.entities import ENTITY_OPERATIONS
from bridge.app.operations.erase import ERASE_OPERATIONS
from bridge.app.operations.instances.bulk import BULK_OPERATIONS
from bridge.app.operations.instances.changes import INSTANCE_CHANGES
from bridge.app.operations.instances.reads import INSTANCE_READS
from bridge.app.operations.instances.sagas import SAGA_OPERATIONS
from bridge.app.operations.jobs import JOB_OPERATIONS
from bridge.app.operations.keys import KEY_OPERATIONS
from bridge.app.operations.lineage.decisions import DECISION_OPERATIONS
from bridge.app.operations.lineage.tracing import MESSAGE_OPERATIONS
from bridge.app.operations.operation import Operation
from bridge.app.operations.route_limits import LIMIT_OPERATIONS
from bridge.app.operations.sources.operations import SOURCE_OPERATIONS
from bridge.app.operations.waiting.jobs import WAITING_JOBS
from bridge.app.operations.waiting.operations import WAITING_OPERATIONS

OPERATIONS: tuple[Operation[Any], ...] = (
    *ENGINE_OPERATIONS,
    *DRAIN_OPERATIONS,
    *MESSAGE_OPERATIONS,
    *DECISION_OPERATIONS,
    *KEY_OPERATIONS,
    *ERASE_OPERATIONS,
    *INSTANCE_READS,
    *INSTANCE_CHANGES,
    *BULK_OPERATIONS,
    *SAGA_OPERATIONS,
    *ENTITY_OPERATIONS,
    *WAITING_OPERATIONS,
    *WAITING_JOBS,
    *SOURCE_OPERATIONS,
    *LIMIT_OPERATIONS,
    *CANARY_OPERATIONS,
    *CONFIGURATION_OPERATIONS,
    *DEAD_LETTER_OPERATIONS,
    *DEAD_LETTER_READS,
    *JOB_OPERATIONS,
    *AUDIT_OPERATIONS,
)
BY_NAME: Mapping[str, Operation[Any]] = {operation.name: operation for operation in OPERATIONS}
