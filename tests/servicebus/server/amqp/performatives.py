"""Performatives and outcomes of AMQP 1.0 (parts 2.7 and 3.4): codes, parsing, encoding."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.decoder import decode
from tests.servicebus.server.amqp.encoder import EMPTY_LIST, NULL
from tests.servicebus.server.amqp.values import Described, Malformed, Symbol

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
NAMES = ("open", "begin", "attach", "flow", "transfer", "disposition", "detach", "end", "close")
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
ERROR, SOURCE, TARGET, COORDINATOR = 0x1D, 0x28, 0x29, 0x30
RECEIVED_STATE, ACCEPTED_STATE, REJECTED_STATE, RELEASED_STATE, MODIFIED_STATE = range(0x23, 0x28)


class Open(NamedTuple):
    container_id: str
    hostname: str | None = None
    max_frame_size: int | None = None
    channel_max: int | None = None
    idle_time_out: int | None = None


class Begin(NamedTuple):
    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int | None = None


class Attach(NamedTuple):
    name: str
    handle: int
    role: bool
    snd_settle_mode: int | None = None
    rcv_settle_mode: int | None = None
    source: Described | None = None
    target: Described | None = None
    unsettled: dict[Any, Any] | None = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


class Flow(NamedTuple):
    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool | None = None
    echo: bool | None = None


class Transfer(NamedTuple):
    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool | None = None
    rcv_settle_mode: int | None = None
    state: Described | None = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


class Disposition(NamedTuple):
    role: bool
    first: int
    last: int | None = None
    settled: bool | None = None
    state: Described | None = None


class Detach(NamedTuple):
    handle: int
    closed: bool | None = None
    error: Described | None = None


_TEXT, _INT, _BOOL, _TYPE, _MAP = (str, Symbol), (int,), (bool,), (Described,), (dict,)

Performative = TypeVar("Performative", Open, Begin, Attach, Flow, Transfer, Disposition, Detach)

_LAYOUT: dict[type, tuple[tuple[int, ...], tuple[tuple[type, ...] | None, ...]]] = {
    Open: ((0,), (_TEXT, _TEXT, _INT, _INT, _INT)),
    Begin: ((1, 2, 3), (_INT, _INT, _INT, _INT, _INT)),
    Attach: (
        (0, 1, 2),
        (_TEXT, _INT, _BOOL, _INT, _INT, _TYPE, _TYPE, _MAP, _BOOL, _INT, _INT, None, None, _MAP),
    ),
    Flow: ((1, 2, 3), (_INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _BOOL, _BOOL)),
    Transfer: ((0,), (_INT, _INT, (bytes,), _INT, _BOOL, _BOOL, _INT, _TYPE, _BOOL, _BOOL, _BOOL)),
    Disposition: ((0, 1), (_BOOL, _INT, _INT, _BOOL, _TYPE)),
    Detach: ((0,), (_INT, _BOOL, _TYPE)),
}
"""Mandatory fields and allowed types of every field, by performative; None: any type."""


def read(kind: type[Performative], fields: list[Any]) -> Performative:
    """Build a performative from decoded fields; additional fields are ignored. Raises: Malformed."""
    layout = _LAYOUT[kind]
    for value, types in zip(fields, layout[1], strict=False):
        if value is not None and types is not None and type(value) not in types:
            raise Malformed(f"{kind.__name__}: {type(value).__name__} where {types[0].__name__} belongs")
    for index in layout[0]:
        if index >= len(fields) or fields[index] is None:
            raise Malformed(f"{kind.__name__} without {kind._fields[index]}")
    return kind(*fields[: len(layout[1])])


def split(body: bytes) -> tuple[int, list[Any], bytes]:
    """Split a frame body into code, decoded fields and payload. Raises: Malformed."""
    code, at = _code(body)
    fields, end = decode(body, at)
    if not isinstance(fields, list):
        raise Malformed("a performative that is no list")
    return code, fields, body[end:]


def _code(body: bytes) -> tuple[int, int]:
    if len(body) < 3 or body[0] != 0:
        raise Malformed("a frame without a performative")
    if body[1] == 0x53:
        return body[2], 3
    code, at = decode(body, 1)
    if not isinstance(code, int):
        raise Malformed("a performative under a symbol")
    return code, at


def error(condition: str | None, description: str | None = None) -> bytes:
    """Encode an error; null without a condition."""
    if condition is None:
        return NULL
    fields = [encoder.symbol(condition), encoder.string(description), NULL]
    return encoder.described(ERROR, encoder.sequence(fields))


ACCEPTED = encoder.described(ACCEPTED_STATE, EMPTY_LIST)
RELEASED = encoder.described(RELEASED_STATE, EMPTY_LIST)
REJECTED_BY_WISH = encoder.described(REJECTED_STATE, encoder.sequence([NULL]))
"""Outcome that confirms a dead-lettering: an error in it would read as a failed settlement."""


def modified(failed: bool | None, undeliverable: bool | None) -> bytes:
    fields = [encoder.boolean(failed), encoder.boolean(undeliverable), NULL]
    return encoder.described(MODIFIED_STATE, encoder.sequence(fields))


def rejected(condition: str, description: str | None) -> bytes:
    return encoder.described(REJECTED_STATE, encoder.sequence([error(condition, description)]))
