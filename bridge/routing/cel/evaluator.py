"""Evaluation of expressions about one known member, to judge them without a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.core.errors import ExpressionCost, ExpressionError, Problem
from bridge.core.message import Envelope, Position
from bridge.routing.cel.cost import estimate_at
from bridge.routing.cel.expression import ROUTE, Compiler, Expression
from bridge.routing.cel.scope import RouteScope
from bridge.routing.cel.tokens import tokens
from bridge.routing.cel.zones import METHODS

ALLOWED = 2e6
"""Largest estimated cost of one evaluation, in nanoseconds. A configuration may come from a stranger."""

_TEXTS = ("type", "source", "subject", "id", "key", "datacontenttype", "dataschema", "message_id", "time")
_PLACES = ("topic", "partition", "offset")

MemberPath = tuple[str, ...]
"""Variable and the members that lead to a value: `("payload", "order", "id")`."""


class Unknown(Exception):
    """The result of an expression is not known.

    cause: error of its evaluation; empty if it was not evaluated.
    """

    def __init__(self, cause: str = "") -> None:
        self.cause = cause
        super().__init__(cause)


class Evaluator:
    """Evaluator of the expressions of one configuration. Each is compiled once.

    variables: `vars` of the configuration.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._compiler = Compiler(lambda path, what: Problem("", 0, 0, "", what), None)
        self._compiled: dict[str, Expression | None] = {}

    def value(self, source: str, member: MemberPath = (), value: Any = None) -> Any:
        """Result of an expression if a member has a value. Raises: Unknown."""
        if source not in self._compiled:
            # The name of a time zone may lead to a file that blocks the process
            zoned = any(token.text in METHODS for token in tokens(source))
            self._compiled[source] = None if zoned else self._compiler.value(source, (), "", ROUTE)
        expression = self._compiled[source]
        # A scope charges for what an expression reads, and a constant reads nothing
        weight = 64 + len(value) * 4 if isinstance(value, str) else 64
        if expression is None or estimate_at(expression.tree, weight, self._variables).cost > ALLOWED:
            raise Unknown
        try:
            return expression.value(self._scope(member, value))
        except ExpressionCost:
            raise Unknown from None
        except ExpressionError as error:
            raise Unknown(str(error).removeprefix(": ").rpartition(", in `")[0]) from None

    def _scope(self, member: MemberPath, value: Any) -> RouteScope:
        attributes: dict[str, Any] = {"message_id": "", "id": "", "source": "", "type": "", "data": None}
        place: dict[str, Any] = {"topic": "", "partition": 0, "offset": 0}
        variable, *path = member or ("",)
        if variable == "payload":
            for name in reversed(path):
                value = {name: value}
            attributes["data"] = value
        elif variable == "event" and len(path) == 1 and path[0] in _TEXTS:
            attributes[path[0]] = value
        elif variable == "event" and len(path) == 1 and path[0] in _PLACES:
            place[path[0]] = value
        elif variable == "event" and len(path) == 2 and path[0] in ("headers", "extensions"):
            attributes[path[0]] = {path[1]: value}
        elif variable:
            raise Unknown
        envelope = Envelope(**attributes, position=Position("", **place))
        return RouteScope(envelope, envelope.data, self._variables, ALLOWED)
