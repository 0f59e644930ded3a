"""Variables of one message that expressions read."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from cel_expr_python import cel

from bridge.core.message import Envelope, Message
from bridge.routing.cel.cost import EXPRESSION_COST
from bridge.routing.cel.projection import Projection, Tree, project, weigh


def _key_base64(message: Message | None) -> str | None:
    return None if message is None or message.key is None else b64encode(message.key).decode()


def _headers_base64(message: Message | None) -> dict[str, str]:
    """Headers in base64. A repeated name has its last value and nulls are left out, as in the headers that are text."""
    headers = () if message is None else message.headers
    return {name: b64encode(value).decode() for name, value in headers if value is not None}


def _data_base64(data: Any) -> str | None:
    return b64encode(data).decode() if isinstance(data, bytes) else None


_BYTES: Mapping[str, Callable[[Envelope], Any]] = {
    "key_base64": lambda envelope: _key_base64(envelope.message),
    "headers_base64": lambda envelope: _headers_base64(envelope.message),
    "data_base64": lambda envelope: _data_base64(envelope.data),
}
"""Members of `event` that exist only when an expression names them. In base64, because CEL ends bytes at a NUL too."""

EVENT: Mapping[str, Callable[[Envelope], Any]] = {
    "type": lambda envelope: envelope.type,
    "source": lambda envelope: envelope.source,
    "id": lambda envelope: envelope.id,
    "subject": lambda envelope: envelope.subject,
    "time": lambda envelope: envelope.time,
    "datacontenttype": lambda envelope: envelope.datacontenttype,
    "dataschema": lambda envelope: envelope.dataschema,
    "key": lambda envelope: envelope.key,
    "topic": lambda envelope: envelope.position.topic,
    "partition": lambda envelope: envelope.position.partition,
    "offset": lambda envelope: envelope.position.offset,
    "message_id": lambda envelope: envelope.message_id,
    "timestamp": lambda envelope: envelope.timestamp,
    "headers": lambda envelope: envelope.headers,
    "extensions": lambda envelope: envelope.extensions,
    **_BYTES,
}
"""Members of `event`. An attribute that the message lacks is null, which makes a condition on it false."""

_ALL_OF_EVENT: Tree = dict.fromkeys(name for name in EVENT if name not in _BYTES)


class ExpressionScope:
    """Variables of one message, converted for CEL at the first read and then shared by all its expressions.

    allowed: maximum estimated cost of all its expressions in nanoseconds, see `bridge.routing.cel.cost`.
    """

    __slots__ = ("_activations", "_left")

    def __init__(self, allowed: float = EXPRESSION_COST) -> None:
        self._activations: dict[Projection, tuple[cel.Activation, int, int]] = {}
        self._left = allowed

    def activation(self, projection: Projection) -> tuple[cel.Activation, int, int]:
        """Variables that an expression reads, with the number of their values and the bytes of their text.

        Raises: ExpressionError if the message holds values that CEL mishandles.
        """
        found = self._activations.get(projection)
        if found is None:
            data = self.data(projection)
            values, size = weigh(data)  # refuses values that CEL must not see
            found = self._activations[projection] = projection.env.Activation(data), values, size
        return found

    def data(self, projection: Projection) -> dict[str, Any]:
        """Parts of the variables that an expression reads."""
        return {name: self.part(name, tree) for name, tree in projection.parts}

    @property
    def left(self) -> float:
        """Remaining cost that evaluations may have, in nanoseconds."""
        return self._left

    def pay(self, cost: float) -> None:
        """Subtract the cost of an evaluation."""
        self._left -= cost

    def part(self, variable: str, tree: Tree | None) -> Any:
        """Part of a variable that `tree` names."""
        return project(getattr(self, variable), tree)


class RouteScope(ExpressionScope):
    """Variables of rules: `event`, `payload`, `vars`, and within `for_each` also `item` and `index`."""

    __slots__ = ("_outer", "envelope", "index", "item", "payload", "vars")

    def __init__(
        self, envelope: Envelope, payload: Any, variables: Mapping[str, Any], allowed: float = EXPRESSION_COST
    ) -> None:
        # sets the fields of ExpressionScope too, to save a call for each message
        self._activations = {}
        self._left = allowed
        self._outer: RouteScope | None = None
        self.envelope = envelope
        self.payload = payload
        self.vars = variables
        self.item: Any = None
        self.index = 0

    def for_item(self, item: Any, index: int) -> RouteScope:
        """Scope of the same message with one of its items.

        Parts that do not read the item are converted once for all items.
        """
        inner = RouteScope(self.envelope, self.payload, self.vars)
        inner._outer = self
        inner.item = item
        inner.index = index
        return inner

    def with_payload(self, payload: Any) -> RouteScope:
        """Scope of the same message with another payload, the result of `map`."""
        return _MappedScope(self, payload)

    @property
    def left(self) -> float:
        return self._left if self._outer is None else self._outer.left

    def pay(self, cost: float) -> None:
        if self._outer is None:
            self._left -= cost
        else:
            self._outer.pay(cost)

    def activation(self, projection: Projection) -> tuple[cel.Activation, int, int]:
        if self._outer is not None and not projection.item:
            return self._outer.activation(projection)
        return super().activation(projection)

    @property
    def event(self) -> dict[str, Any]:
        return {name: EVENT[name](self.envelope) for name in _ALL_OF_EVENT}

    def part(self, variable: str, tree: Tree | None) -> Any:
        if variable == "event":
            members = _ALL_OF_EVENT if tree is None else tree
            return {
                name: project(EVENT[name](self.envelope), below) for name, below in members.items() if name in EVENT
            }
        return project(getattr(self, variable), tree)


class _MappedScope(RouteScope):
    """Variables with the payload that `map` returned. Their cost counts for the message."""

    __slots__ = ("_message",)

    def __init__(self, message: RouteScope, payload: Any) -> None:
        super().__init__(message.envelope, payload, message.vars)
        self._message = message

    @property
    def left(self) -> float:
        return self._message.left

    def pay(self, cost: float) -> None:
        self._message.pay(cost)


class SourceScope(ExpressionScope):
    """Variables of a source's `attributes:` and `identity:`, before an envelope exists."""

    __slots__ = ("headers", "key", "message", "message_id", "offset", "partition", "payload", "timestamp", "topic")

    def __init__(
        self,
        payload: Any,
        headers: Mapping[str, str],
        key: str | None,
        topic: str,
        partition: int,
        offset: int,
        message_id: str | None,
        timestamp: float | None,
        message: Message,
        allowed: float = EXPRESSION_COST,
    ) -> None:
        super().__init__(allowed)
        self.payload = payload
        self.headers = headers
        self.key = key
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.message_id = message_id
        self.timestamp = timestamp
        self.message = message

    @property
    def key_base64(self) -> str | None:
        return _key_base64(self.message)

    @property
    def headers_base64(self) -> dict[str, str]:
        return _headers_base64(self.message)

    @property
    def data_base64(self) -> str | None:
        return _data_base64(self.payload)
