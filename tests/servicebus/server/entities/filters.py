"""Rules of a subscription: filters and actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.servicebus.server.entities.sql import Condition, parse
from tests.servicebus.server.message import Message

_FIELDS = {
    "messageid": 0,
    "to": 2,
    "label": 3,
    "subject": 3,
    "replyto": 4,
    "correlationid": 5,
    "contenttype": 6,
    "sessionid": 10,
    "replytosessionid": 12,
}
"""Indexes in the properties section by the filter names of system properties."""


class Facts:
    """Message properties for filters, read on first use."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._system: list[Any] | None = None
        self._user: dict[str, Any] | None = None

    def system(self, name: str) -> Any:
        """Return a system property; None when there is no such property."""
        if self._system is None:
            self._system = self._message.read_properties()
        place = _FIELDS.get(name.lower())
        return None if place is None else self._system[place]

    def user(self, name: str) -> Any:
        """Return an application property; None when the message has no such property."""
        if self._user is None:
            self._user = self._message.read_application_properties()
        return self._user.get(name)

    def has(self, name: str) -> bool:
        return self.user(name) is not None


class Filter(Protocol):
    def matches(self, facts: Facts) -> bool: ...


@dataclass(frozen=True)
class TrueFilter:
    def matches(self, facts: Facts) -> bool:
        return True


@dataclass(frozen=True)
class FalseFilter:
    def matches(self, facts: Facts) -> bool:
        return False


@dataclass(frozen=True)
class CorrelationFilter:
    """Filter that compares for equality; all given properties must match.

    system: by the names of the filter language, such as `CorrelationId` and `Label`.
    """

    system: dict[str, str] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)

    def matches(self, facts: Facts) -> bool:
        return all(facts.system(name) == value for name, value in self.system.items()) and all(
            facts.user(name) == value for name, value in self.properties.items()
        )


class SqlFilter:
    """Filter with an SQL condition. Raises: ValueError for an expression that cannot be parsed."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._condition: Condition = parse(expression)

    def matches(self, facts: Facts) -> bool:
        return self._condition(facts) is True


@dataclass(frozen=True)
class Rule:
    name: str
    filter: Filter


MATCH_ALL = Rule("$Default", TrueFilter())
