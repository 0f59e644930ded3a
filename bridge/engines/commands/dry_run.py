"""Dry run of commands: an engine's client that reads, and answers each change as the engine would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineRejected, InstanceAlreadyExists, InstanceNotFound
from bridge.core.instance_protocol import FINISHED
from bridge.core.system_names import PREFIX
from bridge.engines.base import Engine
from bridge.engines.client import EngineClient


class _InstanceFinishedStatus(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """Status with which an engine refuses an event for a finished instance."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.FAILED_PRECONDITION


class DryRunClient(EngineClient):
    """Client whose changes have no effect on the engine.

    actions: changes since the last `clear`, each as text like `start order_saga`.
    Instances that the dry run has started exist for later commands.
    """

    def __init__(self, real: EngineClient) -> None:
        super().__init__(real.sdk)
        self.lacking = real.lacking
        self.actions: list[str] = []
        self._started: dict[str, OrchestrationState] = {}

    async def schedule_new_orchestration(
        self,
        orchestration: str,
        *,
        input: Any = None,  # noqa: A002 -- the SDK's name
        instance_id: str | None = None,
        start_at: datetime | None = None,
        reuse_id_policy: pb.OrchestrationIdReusePolicy | None = None,
        tags: Mapping[str, str] | None = None,
        version: str | None = None,
        what: str | None = None,
    ) -> str:
        assert instance_id is not None
        existing = await self.find_instance(instance_id, fetch_payloads=False, what=what)
        replaces = bool(reuse_id_policy is not None and reuse_id_policy.replaceableStatus)
        if existing is not None and not (replaces and existing.runtime_status.name in FINISHED):
            raise InstanceAlreadyExists(f"{what or instance_id}: the instance exists")
        if not orchestration.startswith(PREFIX):
            self.actions.append(f"{'restart' if existing is not None else 'start'} {orchestration}")
        now = datetime.now(UTC)
        serialized = json.dumps(input, default=str)
        self._started[instance_id] = OrchestrationState(
            instance_id, orchestration, OrchestrationStatus.RUNNING, now, now, serialized, None, None, None
        )
        return instance_id

    async def raise_orchestration_event(self, instance_id: str, event_name: str, *, data: Any = None) -> bool:
        if (await self._existing(instance_id)).runtime_status.name in FINISHED:
            raise EngineRejected(
                f"raise {event_name!r} to {instance_id!r}: the instance has finished"
            ) from _InstanceFinishedStatus()
        self.actions.append(f"raise {event_name}")
        return False

    async def terminate_orchestration(self, instance_id: str, *, output: Any = None, recursive: bool = True) -> None:
        await self._existing(instance_id)
        self.actions.append("terminate")

    async def suspend_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        await self._existing(instance_id)
        self.actions.append("suspend")

    async def resume_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        await self._existing(instance_id)
        self.actions.append("resume")

    async def signal_entity(
        self,
        entity: EntityInstanceId,
        operation_name: str,
        input: Any = None,  # noqa: A002 -- the SDK's name
        signal_time: datetime | None = None,
        *,
        what: str | None = None,
    ) -> None:
        self.actions.append(f"signal {entity.entity} {operation_name}")

    async def get_orchestration_state(
        self, instance_id: str, *, fetch_payloads: bool = True, what: str | None = None
    ) -> OrchestrationState | None:
        started = self._started.get(instance_id)
        if started is not None:
            return started
        return await super().get_orchestration_state(instance_id, fetch_payloads=fetch_payloads, what=what)

    async def _existing(self, instance_id: str) -> OrchestrationState:
        found = await self.find_instance(instance_id, fetch_payloads=False)
        if found is None:
            raise InstanceNotFound(f"there is no instance {instance_id!r}")
        return found


class DryRunEngine:
    """Engine as `CommandRunner` uses it, for a dry run against a running engine."""

    confirms_event_delivery = False

    def __init__(self, real: Engine) -> None:
        self.name = real.name
        self.client = DryRunClient(real.client)
