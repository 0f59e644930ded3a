"""Function chaining: each activity gets the result of the previous one, and has a retry policy of its own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import publish

RESULTS = "pattern-results"
"""Target of the configuration to which the patterns publish."""

PATIENT = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=10,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=5),
)
"""Retry policy for calls to services that recover: pauses of 1, 2, 4 s ..., at most five minutes."""

BRIEF = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=100), max_number_of_attempts=3)
"""Retry policy for work that fails at once or not at all."""


@dataclass
class InvoiceLine:
    """One line of an invoice. price: price of one piece in cents."""

    text: str
    price: int
    quantity: int = 1


@dataclass
class Invoice:
    """Input of `invoice`."""

    number: str
    lines: list[InvoiceLine] = field(default_factory=list)
    total: int = 0


def check_invoice(ctx: task.ActivityContext, invoice: Invoice) -> Invoice:
    """Check the invoice. Raises: ValueError for one that can never be filed."""
    if not invoice.lines:
        raise ValueError("an invoice needs a line")
    return invoice


def add_up(ctx: task.ActivityContext, invoice: Invoice) -> Invoice:
    """Compute the total, in cents."""
    invoice.total = sum(line.price * line.quantity for line in invoice.lines)
    return invoice


def file_invoice(ctx: task.ActivityContext, invoice: Invoice) -> str:
    """Store the invoice in the archive under its number. A repeat overwrites its own work."""
    return f"archive/{invoice.number}.json"


def invoice(ctx: task.OrchestrationContext, request: Invoice) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Check an invoice, add up its total, file it and publish the result.

    A refusal is published too and is not an error.
    """
    try:
        checked = yield ctx.call_activity(check_invoice, input=request)
    except task.TaskFailedError as error:
        refused = {"number": request.number, "refused": error.details.message}
        yield publish(ctx, RESULTS, refused, type="invoice.refused", subject=request.number)
        return refused
    summed = yield ctx.call_activity(add_up, input=checked, retry_policy=BRIEF)
    filed = yield ctx.call_activity(file_invoice, input=summed, retry_policy=PATIENT)
    done = {"number": request.number, "total": summed.total, "filed": filed}
    yield publish(ctx, RESULTS, done, type="invoice.filed", subject=request.number)
    return done
