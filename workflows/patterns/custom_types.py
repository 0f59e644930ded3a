"""Custom types as inputs and results: a dataclass, a named tuple and a pydantic model.

The annotations of activities and orchestrators define the types of their payloads. An activity called by name has no
annotation; `return_type` defines its type.
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
    """Size in centimetres."""

    length: int
    width: int
    height: int

    @property
    def volume(self) -> int:
        """Volume in cubic centimetres."""
        return self.length * self.width * self.height


@dataclass
class Parcel:
    """A parcel. weight is in grams."""

    size: Size
    weight: int


class Quote(BaseModel):
    """A price in cents, validated when it is created and whenever it is read."""

    carrier: str = Field(min_length=1)
    price: int = Field(gt=0)


@dataclass
class QuoteRequest:
    """Input of `quote`."""

    number: str
    parcel: Parcel


def quote_by_volume(ctx: task.ActivityContext, size: Size) -> Quote:
    """Quote of the carrier of bulky goods."""
    return Quote(carrier="bulk", price=100 + size.volume // 1000)


def quote_by_weight(ctx: task.ActivityContext, parcel: Parcel) -> Quote:
    """Quote of the carrier of heavy goods."""
    return Quote(carrier="heavy", price=150 + parcel.weight // 100)


def quote(ctx: task.OrchestrationContext, request: QuoteRequest) -> Generator[task.Task[Any], Any, Quote]:
    """Return the cheaper of two quotes; the first one if they are equal."""
    asked: list[task.Task[Quote]] = [
        ctx.call_activity(quote_by_volume, input=request.parcel.size),
        ctx.call_activity(quote_by_weight, input=request.parcel),
    ]
    quotes: list[Quote] = yield task.when_all(asked)
    best = min(quotes, key=lambda one: one.price)
    yield publish(ctx, RESULTS, best, type="quote.made", subject=request.number)
    return best
