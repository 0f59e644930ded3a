"""A saga with the workflow kit: flight and hotel at once, then the payment, then no way back."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import Command, CompensationInput, Saga, SagaOutcome, Step, StepInput
from workflows.patterns.chaining import BRIEF, RESULTS

SERVICES = "services"
"""Target of the configuration that commands to other services go to."""

REPLIES = "service-replies"
"""Topic that those services answer on."""


@dataclass
class Trip:
    """Input of `booking`. payment_deadline is seconds."""

    number: str
    city: str
    price: int = 0
    payment_deadline: float = 900.0


class SoldOut(Exception):
    """There is nothing left: trying again would not help, and nothing was booked."""


def book_flight(ctx: task.ActivityContext, call: StepInput) -> str:
    """The step key is the idempotency key: the airline gives the same booking for a repeated call."""
    return f"flight-{call.key[:8]}"


def cancel_flight(ctx: task.ActivityContext, undo: CompensationInput) -> str:
    """Cancel by key: the airline remembers a key that it has not seen yet, so a booking that is late is refused."""
    return f"cancelled {undo.key[:8]}"


def book_hotel(ctx: task.ActivityContext, call: StepInput) -> str:
    """Refuses cities without hotels."""
    trip = call.input_as(Trip)
    if trip.city == "Atlantis":
        raise SoldOut(trip.city)
    return f"hotel in {trip.city}"


def cancel_hotel(ctx: task.ActivityContext, undo: CompensationInput) -> str:
    """Cancel by key; harmless when nothing was booked."""
    return f"cancelled {undo.key[:8]}"


def send_documents(ctx: task.ActivityContext, call: StepInput) -> str:
    """Send the tickets; the key keeps a repeat from being sent twice."""
    return f"documents {call.key[:8]}"


def booking(ctx: task.OrchestrationContext, trip: Trip) -> Generator[task.Task[Any], Any, SagaOutcome]:
    """Book a trip, or leave nothing booked. The event `cancel` is heard until it is paid."""
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
