"""Cancellation: its reason, and its acknowledgement by an orchestration that is not a saga."""

from __future__ import annotations

from typing import Any

from durabletask import task


def acknowledge_cancel(ctx: task.OrchestrationContext, **more: Any) -> None:
    """Acknowledge a cancel in the custom status. A cancel with `grace` then does not terminate the orchestration.

      yield ctx.wait_for_external_event("cancel")
      acknowledge_cancel(ctx)
      yield ctx.call_activity(undo, input=order)

    more: further fields of the custom status, which is an object. Keep `"cancel": "accepted"` in it when you replace
    it.
    Sagas acknowledge a cancel themselves.
    """
    ctx.set_custom_status({**more, "cancel": "accepted"})


def reason_of(data: Any) -> str:
    """Reason of a cancel, from the data of the event."""
    return str(data.get("reason") or "") if isinstance(data, dict) else str(data or "")
