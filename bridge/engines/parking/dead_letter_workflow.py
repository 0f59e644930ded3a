"""Dead letters of early and quarantined messages: one orchestration for each, which retries without end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from typing import Any

from durabletask import task
from durabletask.entities import EntityContext

from bridge.core.provenance import current_reason
from bridge.parking.early_message_queue import Undelivered
from bridge.parking.names import DEAD_LETTER, letter_id
from bridge.parking.sealed import MessageSealer

_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=5,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(seconds=30),
)
_PAUSE = timedelta(minutes=1)


def orchestrator() -> Callable[..., Any]:
    """Create the orchestrator, which takes the input of the activity DEAD_LETTER.

    After a few failures it continues as new, which keeps its history short.
    """

    def dead_letter(ctx: task.OrchestrationContext, letter: Any) -> Generator[Any, Any, None]:
        try:
            yield ctx.call_activity(DEAD_LETTER, input=letter, retry_policy=_RETRY)
        except task.TaskFailedError:
            yield ctx.create_timer(_PAUSE)
            ctx.continue_as_new(letter)

    dead_letter.__name__ = DEAD_LETTER
    return dead_letter


def activity(write: Callable[[dict[str, Any]], None], messages: MessageSealer | None = None) -> Callable[..., Any]:
    """Create the activity that writes a dead letter.

    write: writes one dead letter durably; raises BridgeError.
    messages: decrypts encrypted messages.
    """
    sealer = messages or MessageSealer()

    def dead_letter(_: task.ActivityContext, letter: dict[str, Any]) -> None:
        write(letter | {"item": sealer.open(letter["item"]), "reason": current_reason(letter["reason"])})

    dead_letter.__name__ = DEAD_LETTER
    return dead_letter


def send(ctx: EntityContext, undelivered: Iterable[Undelivered]) -> None:
    """Start one orchestration for each undelivered message.

    The start is part of the commit of the entity's operation. A repeated operation uses the same instance id.
    """
    for each in undelivered:
        item = each.parked
        letter: dict[str, Any] = {"item": item, "reason": each.reason, "detail": each.detail}
        letter |= {"error": each.error, "attempts": each.attempts}
        instance_id = letter_id(ctx.entity_id.key, item["mark"], item["since"])
        ctx.schedule_new_orchestration(DEAD_LETTER, letter, instance_id)
