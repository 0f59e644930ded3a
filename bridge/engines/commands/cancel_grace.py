"""Cancel with `grace`: an orchestration of the bridge that waits, checks the instance, and may terminate it.

The orchestration runs on the engine of the instance that it watches. Its timer therefore outlives every process of the
bridge. A request is acknowledged when the custom status says so (`acknowledged`); sagas set that status themselves. An
instance that has acknowledged, has finished, or was started again is left unchanged.

Between a check and a termination the instance could begin to compensate. The instance is therefore suspended first. A
probe event is raised next, which returns when no turn is in flight. Only an instance that still has not acknowledged is
then terminated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import structlog
from durabletask import task
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.commands import Cancel
from bridge.core.errors import EngineRejected, InstanceAlreadyExists, InstanceNotFound
from bridge.core.origin import MessageOrigin
from bridge.engines.base import Engine
from bridge.engines.commands.instance_reader import InstanceReader

log = structlog.get_logger("bridge.cancel")

CANCEL_GRACE = "bridge.cancel"
"""Name of the orchestration."""

CANCEL_GRACE_IDS = "bridge:cancel:"
"""Prefix of its instance ids."""

CHECK = "bridge.cancel.look"
STOP = "bridge.cancel.stop"

PROBE_EVENT = "bridge.cancel.probe"
"""Event that is raised to make sure that no turn is in flight. No orchestrator waits for it."""

ACCEPTED = "accepted"
_COMPENSATING = frozenset({"cancelling", "compensating", "compensated", "compensation_failed"})
_FINISHED = frozenset(
    {OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED}
)  # fmt: skip
_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=100,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=1),
)
_AGAIN = timedelta(seconds=5)
_SETTLE = 10.0
"""Seconds within which an instance must become suspended, while its worker may be busy or away."""


def acknowledged(custom_status: Any) -> bool:
    """True when a custom status says that a cancel is being honoured, or that the instance can no longer be cancelled.

    Such a status is an object with `"cancel": "accepted"`, or the status of a saga that compensates or has passed its
    point of no return.
    """
    if not isinstance(custom_status, Mapping):
        return False
    if custom_status.get("cancel") == ACCEPTED:
        return True
    return "saga" in custom_status and (
        custom_status.get("status") in _COMPENSATING or custom_status.get("committed") is True
    )


def cancel_grace(ctx: task.OrchestrationContext, request: Mapping[str, Any]) -> Any:
    """Orchestrator that ends a cancel: returns "ended", "replaced", "acknowledged" or "terminated".

    request: `instance`, `created` and `due` (ISO 8601 in UTC), `reason`; from the second round on also `suspended`.
    """
    if "suspended" not in request:
        yield ctx.create_timer(datetime.fromisoformat(request["due"]).replace(tzinfo=None))
        seen = yield ctx.call_activity(CHECK, input=request, retry_policy=_RETRY)
        if seen["verdict"] is not None:
            return seen["verdict"]
        # An instance that another person or program has suspended stays suspended
        request = {**request, "suspended": seen["suspended"]}
    verdict = yield ctx.call_activity(STOP, input=request, retry_policy=_RETRY)
    if verdict is not None:
        return verdict
    yield ctx.create_timer(_AGAIN)
    ctx.continue_as_new(request)
    return None


cancel_grace.__name__ = CANCEL_GRACE


class CancelGrace:
    """Activities behind the orchestration, on one engine. Call them from any thread except the event loop's."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, settle: float = _SETTLE) -> None:
        self._engine = engine
        self._loop = loop
        self._settle = settle

    def activities(self) -> dict[str, Callable[..., Any]]:
        """Activities by registered name."""
        return {CHECK: self._activity(CHECK, self.check), STOP: self._activity(STOP, self.stop)}

    def _activity(self, name: str, run: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        def activity(_: task.ActivityContext, request: dict[str, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(run(request), self._loop).result()

        activity.__name__ = name
        return activity

    async def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Check the instance: its verdict, and whether it is suspended. Raises: EngineError.

        The `verdict` is None while the request is not acknowledged.
        """
        state = await self._state(request["instance"])
        suspended = state is not None and state.runtime_status is OrchestrationStatus.SUSPENDED
        return {"verdict": _verdict(state, request), "suspended": suspended}

    async def stop(self, request: Mapping[str, Any]) -> str | None:
        """Terminate an instance that has not acknowledged; return the verdict, or None when it is not known yet.

        The call may be repeated. Raises: EngineError.
        """
        instance = request["instance"]
        state = await self._state(instance)
        verdict = _verdict(state, request)
        if verdict is None:
            await self._engine.client.suspend_orchestration(instance)
            state = await self._suspended(instance)
            verdict = _verdict(state, request)
            if verdict is None and (state is None or state.runtime_status is not OrchestrationStatus.SUSPENDED):
                return None
        if verdict is None:
            verdict = await self._without_turn(instance, request)
        if verdict is None:
            output = {"cancelled": True, "reason": request.get("reason")}
            await self._engine.client.terminate_orchestration(instance, output=output)
            log.warning("terminated after its grace", action="cancel", instance=instance)
            return "terminated"
        if verdict == "acknowledged" and not request["suspended"]:
            await self._engine.client.resume_orchestration(instance)
        return verdict

    async def _without_turn(self, instance: str, request: Mapping[str, Any]) -> str | None:
        try:
            await self._engine.client.raise_orchestration_event(instance, PROBE_EVENT)
        except (EngineRejected, InstanceNotFound):
            return "ended"
        return _verdict(await self._state(instance), request)

    async def _suspended(self, instance: str) -> OrchestrationState | None:
        """State of the instance once it is suspended or has finished, or the latest one when the time is up."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settle
        pause = 0.02
        while True:
            state = await self._state(instance)
            done = state is None or state.runtime_status in (*_FINISHED, OrchestrationStatus.SUSPENDED)
            if done or loop.time() > end:
                return state
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 1.5)

    async def _state(self, instance: str) -> OrchestrationState | None:
        return await self._engine.client.find_instance(instance, what=f"look at {instance!r}")


async def start_cancel_grace(
    engine: Engine, reader: InstanceReader, command: Cancel, origin: MessageOrigin | None, due: datetime
) -> None:
    """Start the orchestration that watches a cancel. A repeat of the request finds the orchestration of the first one.

    Raises: EngineError.
    """
    what = f"store the grace period of the cancel of {command.instance_id!r}"
    client = engine.client
    state = await client.find_instance(command.instance_id, what=what)
    if state is None or state.runtime_status in _FINISHED:
        return
    identity = uuid4().hex if origin is None else "\n".join(map(str, origin.key))
    digest = blake2b(f"{command.instance_id}\n{identity}".encode("utf-8", "surrogatepass"), digest_size=16)
    instance_id = CANCEL_GRACE_IDS + digest.hexdigest()
    request = {
        "instance": command.instance_id,
        "created": created(state),
        "due": due.astimezone(UTC).isoformat(),
        "reason": command.reason,
    }
    never = pb.OrchestrationIdReusePolicy()
    with suppress(InstanceAlreadyExists):
        call = client.schedule_new_orchestration(
            CANCEL_GRACE, input=request, instance_id=instance_id, reuse_id_policy=never, what=what
        )
        await reader.call(what, instance_id, call)


def created(state: OrchestrationState) -> str:
    """Creation time of an instance, which distinguishes it from a later one of the same id."""
    return state.created_at.replace(tzinfo=UTC).isoformat()


def _verdict(state: OrchestrationState | None, request: Mapping[str, Any]) -> str | None:
    if state is None or state.runtime_status in _FINISHED:
        return "ended"
    if created(state) != request["created"]:
        return "replaced"
    try:
        status = json.loads(state.serialized_custom_status or "null")
    except ValueError:
        status = None
    return "acknowledged" if acknowledged(status) else None
