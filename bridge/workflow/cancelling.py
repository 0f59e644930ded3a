"""What a cancel says, and how an orchestration that is no saga says that it honours one."""

from __future__ import annotations

from typing import Any

from durabletask import task


def acknowledge_cancel(ctx: task.OrchestrationContext, **more: Any) -> None:
    """Say in the custom status that the cancel is being honoured, so that a cancel with `grace` does not terminate it.

        yield ctx.wait_for_external_event("cancel")
        acknowledge_cancel(ctx)
        yield ctx.call_activity(undo, input=order)

    more: further fields of the custom status, an object. Keep `"cancel": "accepted"` in it when you write it anew.
    Sagas do this by themselves.
    """
    ctx.set_custom_status({**more, "cancel": "accepted"})


def reason_of(data: Any) -> str:
    """Why somebody cancels, from the data of the event."""
    return str(data.get("reason") or "") if isinstance(data, dict) else str(data or "")
