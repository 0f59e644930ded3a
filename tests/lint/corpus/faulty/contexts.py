"""Contexts under other names: each orchestrator reads the clock."""

from __future__ import annotations

import time
import typing as t
from typing import TYPE_CHECKING, Annotated, NewType, Optional, TypeAlias, Union

import durabletask.task as dt
from contexts_elsewhere import Context, Imported
from durabletask import task
from durabletask.task import OrchestrationContext as OC

if TYPE_CHECKING:
    from durabletask.task import OrchestrationContext as Hidden

Alias = task.OrchestrationContext
Declared: TypeAlias = "dt.OrchestrationContext"
Chain = Alias
Text = "OC"
New = NewType("New", OC)


class Own(task.OrchestrationContext):
    pass


class OwnAgain(Own):
    pass


Bound = t.TypeVar("Bound", bound=OC)


def import_as(c: OC, v):
    yield time.time()  # finds: clock


def module_as(c: dt.OrchestrationContext, v):
    yield time.time()  # finds: clock


def alias(c: Alias, v):
    yield time.time()  # finds: clock


def declared_alias(c: Declared, v):
    yield time.time()  # finds: clock


def chain(c: Chain, v):
    yield time.time()  # finds: clock


def text(c: "OC", v):
    yield time.time()  # finds: clock


def text_of_alias(c: "Text", v):
    yield time.time()  # finds: clock


def subclass(c: Own, v):
    yield time.time()  # finds: clock


def subclass_of_subclass(c: "OwnAgain", v):
    yield time.time()  # finds: clock


def optional(c: Optional[OC], v):
    yield time.time()  # finds: clock


def union(c: OC | None, v):
    yield time.time()  # finds: clock


def union_in_words(c: Union[OC, Own], v):
    yield time.time()  # finds: clock


def annotated(c: Annotated[OC, "the context"], v):
    yield time.time()  # finds: clock


def new_type(c: New, v):
    yield time.time()  # finds: clock


def type_variable(c: Bound, v):
    yield time.time()  # finds: clock


def for_checkers_only(c: Hidden, v):
    yield time.time()  # finds: clock


def imported_subclass(c: Context, v):
    yield time.time()  # finds: clock


def imported_alias(c: Imported, v):
    yield time.time()  # finds: clock


def not_a_generator(c: Alias, v):
    return time.time()  # finds: clock


def durable_call_of_an_alias(c: Alias, v):
    c.call_activity("charge")  # finds: missing-yield
    yield c.create_timer(1)
