"""The variables that expressions see, of one message."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from cel_expr_python import cel

from bridge.envelope import Envelope
from bridge.message import Message
from bridge.routing.cost import EXPRESSION_COST
from bridge.routing.projection import Projection, Tree, project, weigh


def _key_base64(message: Message | None) -> str | None:
    return None if message is None or message.key is None else b64encode(message.key).decode()


def _headers_base64(message: Message | None) -> dict[str, str]:
    """Of a repeated name the last value, and no nulls, as in the headers that are text."""
    headers = () if message is None else message.headers
    return {name: b64encode(value).decode() for name, value in headers if value is not None}


def _data_base64(data: Any) -> str | None:
    return b64encode(data).decode() if isinstance(data, bytes) else None


_BYTES: Mapping[str, Callable[[Envelope], Any]] = {
    "key_base64": lambda envelope: _key_base64(envelope.message),
    "headers_base64": lambda envelope: _headers_base64(envelope.message),
    "data_base64": lambda envelope: _data_base64(envelope.data),
}
"""Members of `event` that are there only when they are named. In base64, since CEL ends bytes at a NUL too."""

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
"""Members of `event`. An attribute that the message has not is null, so that a condition on it is just false."""

_ALL_OF_EVENT: Tree = dict.fromkeys(name for name in EVENT if name not in _BYTES)


class Scope:
    """Variables of one message, converted for CEL when first read and then shared by all its expressions.

    allowed: estimated cost of all its expressions in nanoseconds, see `bridge.routing.cost`.
    """

    __slots__ = ("_activations", "_left")

    def __init__(self, allowed: float = EXPRESSION_COST) -> None:
        self._activations: dict[Projection, tuple[cel.Activation, int, int]] = {}
        self._left = allowed

    def activation(self, projection: Projection) -> tuple[cel.Activation, int, int]:
        """What an expression reads, with the number of its values and of the bytes of their text.

        Raises: ExpressionError when the message holds what CEL cannot see as it is.
        """
        found = self._activations.get(projection)
        if found is None:
            data = self.data(projection)
            values, size = weigh(data)  # which refuses what CEL must not see
            found = self._activations[projection] = projection.env.Activation(data), values, size
        return found

    def data(self, projection: Projection) -> dict[str, Any]:
        """The variables that an expression reads, as far as it reads them."""
        return {name: self.part(name, tree) for name, tree in projection.parts}

    @property
    def left(self) -> float:
        """What evaluations may still cost."""
        return self._left

    def pay(self, cost: float) -> None:
        """Count an evaluation."""
        self._left -= cost

    def part(self, variable: str, tree: Tree | None) -> Any:
        """What `tree` names of a variable."""
        return project(getattr(self, variable), tree)


class RouteScope(Scope):
    """Variables of rules: `event`, `payload`, `vars`, and below `for_each` `item` and `index`."""

    __slots__ = ("_outer", "envelope", "index", "item", "payload", "vars")

    def __init__(
        self, envelope: Envelope, payload: Any, variables: Mapping[str, Any], allowed: float = EXPRESSION_COST
    ) -> None:
        # the fields of Scope too: one call less for each message
        self._activations = {}
        self._left = allowed
        self._outer: RouteScope | None = None
        self.envelope = envelope
        self.payload = payload
        self.vars = variables
        self.item: Any = None
        self.index = 0

    def for_item(self, item: Any, index: int) -> RouteScope:
        """The same message with one of its items. What does not read the item is converted once for all of them."""
        inner = RouteScope(self.envelope, self.payload, self.vars)
        inner._outer = self
        inner.item = item
        inner.index = index
        return inner

    def with_payload(self, payload: Any) -> RouteScope:
        """The same message with another payload, which `map` has made."""
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
    """Variables with the payload that `map` returned. What they cost is the message's."""

    __slots__ = ("_message",)

    def __init__(self, message: RouteScope, payload: Any) -> None:
        super().__init__(message.envelope, payload, message.vars)
        self._message = message

    @property
    def left(self) -> float:
        return self._message.left

    def pay(self, cost: float) -> None:
        self._message.pay(cost)


class SourceScope(Scope):
    """Variables of a source's `attributes:` and `identity:`, before there is an envelope."""

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
