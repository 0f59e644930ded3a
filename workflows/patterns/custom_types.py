"""Custom types as inputs and results: a dataclass, a named tuple and a pydantic model.

The annotations of activities and orchestrators say what their payloads are read as. An activity that is called by name
has none to look at; there `return_type` says it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from durabletask import task
from pydantic import BaseModel, Field

from bridge.workflow import publish
from workflows.patterns.chaining import RESULTS


class Size(NamedTuple):
    """Centimetres."""

    length: int
    width: int
    height: int

    @property
    def volume(self) -> int:
        """Cubic centimetres."""
        return self.length * self.width * self.height


@dataclass
class Parcel:
    """weight in grams."""

    size: Size
    weight: int


class Quote(BaseModel):
    """A price in cents, checked when it is made and whenever it is read."""

    carrier: str = Field(min_length=1)
    price: int = Field(gt=0)


@dataclass
class QuoteRequest:
    """Input of `quote`."""

    number: str
    parcel: Parcel


def quote_by_volume(ctx: task.ActivityContext, size: Size) -> Quote:
    """What the carrier of bulky goods asks."""
    return Quote(carrier="bulk", price=100 + size.volume // 1000)


def quote_by_weight(ctx: task.ActivityContext, parcel: Parcel) -> Quote:
    """What the carrier of heavy goods asks."""
    return Quote(carrier="heavy", price=150 + parcel.weight // 100)


def quote(ctx: task.OrchestrationContext, request: QuoteRequest) -> Generator[task.Task[Any], Any, Quote]:
    """The cheaper of two quotes; the first one if they are equal."""
    asked = [
        ctx.call_activity(quote_by_volume, input=request.parcel.size),
        ctx.call_activity(quote_by_weight, input=request.parcel),
    ]
    quotes: list[Quote] = yield task.when_all(asked)
    best = min(quotes, key=lambda one: one.price)
    yield publish(ctx, RESULTS, best, type="quote.made", subject=request.number)
    return best
