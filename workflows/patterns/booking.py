"""Saga with the workflow kit: flight and hotel concurrently, then the payment, then the point of no return."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import Command, CompensationInput, Saga, SagaOutcome, Step, StepInput
from workflows.patterns.chaining import BRIEF, RESULTS

SERVICES = "services"
"""Target of the configuration for commands to other services."""

REPLIES = "service-replies"
"""Topic to which those services send their answers."""


@dataclass
class Trip:
    """Input of `booking`. payment_deadline is seconds."""

    number: str
    city: str
    price: int = 0
    payment_deadline: float = 900.0


class SoldOut(Exception):
    """Raised when a hotel has no rooms. A retry would not help, and nothing was booked."""


def book_flight(ctx: task.ActivityContext, call: StepInput) -> str:
    """Book a flight. The step key is the idempotency key: the airline returns the same booking for a repeated call."""
    return f"flight-{call.key[:8]}"


def cancel_flight(ctx: task.ActivityContext, undo: CompensationInput) -> str:
    """Cancel by key. The airline also remembers an unknown key, and then refuses a late booking under it."""
    return f"cancelled {undo.key[:8]}"


def book_hotel(ctx: task.ActivityContext, call: StepInput) -> str:
    """Book a hotel. Refuses cities without hotels."""
    trip = call.input_as(Trip)
    if trip.city == "Atlantis":
        raise SoldOut(trip.city)
    return f"hotel in {trip.city}"


def cancel_hotel(ctx: task.ActivityContext, undo: CompensationInput) -> str:
    """Cancel by key. Harmless if nothing was booked."""
    return f"cancelled {undo.key[:8]}"


def send_documents(ctx: task.ActivityContext, call: StepInput) -> str:
    """Send the tickets. The key prevents a second dispatch after a repeat."""
    return f"documents {call.key[:8]}"


def booking(ctx: task.OrchestrationContext, trip: Trip) -> Generator[task.Task[Any], Any, SagaOutcome]:
    """Book a trip, or leave nothing booked. The event `cancel` takes effect until the trip is paid."""
    saga = Saga(ctx, "booking", publish_outcome=RESULTS)

    def body() -> Generator[task.Task[Any], Any, dict[str, Any]]:
        flight, hotel = yield from saga.parallel(
            [
                Step("flight", book_flight, trip, compensation=cancel_flight, retry=BRIEF),
                Step("hotel", book_hotel, trip, compensation=cancel_hotel, retry=BRIEF, refusals=(SoldOut,)),
            ]
        )
        receipt = yield from saga.step(
            Step(
                "payment",
                Command(SERVICES, "payment.requested", reply_to=REPLIES, subject=trip.number),
                {"number": trip.number, "amount": trip.price},
                compensation=Command(SERVICES, "payment.voided", subject=trip.number),
                timeout=timedelta(seconds=trip.payment_deadline),
            )
        )
        saga.point_of_no_return()
        yield from saga.step(Step("documents", send_documents, trip, retry=BRIEF))
        return {"flight": flight, "hotel": hotel, "receipt": receipt}

    return (yield from saga.run(body()))
