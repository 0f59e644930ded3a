"""Attach handling: the node, the link and the claim for each attach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.servicebus.server.access.keys import LISTEN, MANAGEMENT, SEND, path_of
from tests.servicebus.server.amqp.performatives import COORDINATOR, Attach
from tests.servicebus.server.amqp.values import Described, Malformed
from tests.servicebus.server.entities.namespace import Entity
from tests.servicebus.server.entities.queue import DEAD_LETTERS, Queue
from tests.servicebus.server.entities.topic import Subscription, Topic
from tests.servicebus.server.errors import Refusal, not_allowed, refusal
from tests.servicebus.server.faults import Step
from tests.servicebus.server.incoming import IncomingLink
from tests.servicebus.server.link import Link
from tests.servicebus.server.management.node import ManagementNode
from tests.servicebus.server.message import BATCH_FORMAT, Message, split_batch
from tests.servicebus.server.outgoing import SESSION_FILTER, OutgoingLink

if TYPE_CHECKING:
    from tests.servicebus.server.session import Session

CLAIMS = "$cbs"


def attach(session: Session, wish: Attach, raw: list[bytes]) -> None:
    """Answer an attach; the answer may wait for a free message session. Raises: Malformed."""
    path = path_of(_address(wish))
    link = _link(session, wish, raw, path)
    try:
        if session.connection.strikes(Step.ATTACH, path, link):
            return
        if path == CLAIMS or path.lower().endswith(MANAGEMENT):
            link.begin()
        else:
            session.state.faults.check_busy(path.lower())
            _attach_to_entity(session, wish, link, path)
        if link.attached:
            session.connection.strikes(Step.ATTACHED, path, link)
    except Refusal as no:
        if link.attached:
            link.detach(no)
        else:
            link.refuse(no)


def _address(wish: Attach) -> str | None:
    terminus = wish.source if wish.role else wish.target
    if terminus is None:
        raise Malformed("an attach without a terminus")
    if terminus.descriptor == COORDINATOR:
        return None
    fields = terminus.value
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], str):
        raise Malformed("an attach without an address")
    return fields[0]


def _link(session: Session, wish: Attach, raw: list[bytes], path: str) -> OutgoingLink | IncomingLink:
    if wish.role:
        return OutgoingLink(session, wish, raw, path)
    if path == CLAIMS:
        return IncomingLink(session, wish, raw, path, None, session.connection.claims.on_message)
    if path.lower().endswith(MANAGEMENT):
        node = ManagementNode(session.state, path[: -len(MANAGEMENT)])
        return IncomingLink(session, wish, raw, path, None, node.on_message)
    return IncomingLink(session, wish, raw, path, SEND, _store)


def _attach_to_entity(session: Session, wish: Attach, link: OutgoingLink | IncomingLink, path: str) -> None:
    if not path:
        raise refusal("amqp:not-implemented", "Transactions are not implemented.")
    session.connection.claims.demand(path, LISTEN if wish.role else SEND)
    entity = session.state.namespace.find(path)
    if isinstance(link, IncomingLink):
        if isinstance(entity, Subscription) or path.lower().endswith(DEAD_LETTERS):
            raise not_allowed("Messages cannot be sent to this entity.")
        link.begin()
    else:
        _attach_receiver(wish, link, entity)


def _attach_receiver(wish: Attach, link: OutgoingLink, entity: Entity) -> None:
    if not isinstance(entity, Queue):
        raise not_allowed("Messages cannot be received from a topic; use a subscription.")
    link.receive_from(entity)
    wanted, id_ = _session_filter(wish)
    if entity.sessions is None:
        if wanted:
            raise not_allowed(
                "A sessionful message receiver cannot be created on an entity that does not require sessions."
            )
        link.begin()
    elif not wanted:
        raise not_allowed(
            "It is not possible for an entity that requires sessions to create a non-sessionful message receiver."
        )
    elif id_ is None:
        link.wait_for_session(_patience(wish, link.state.config.session_wait))
    else:
        entity.sessions.accept(id_, link)
        link.begin()


def _session_filter(wish: Attach) -> tuple[bool, str | None]:
    """Return whether the attach has a session filter, and the session that the filter names."""
    fields = wish.source.value if wish.source is not None else []
    filters = fields[7] if isinstance(fields, list) and len(fields) > 7 else None
    if not isinstance(filters, dict) or SESSION_FILTER not in filters:
        return False, None
    wanted: Any = filters[SESSION_FILTER]
    if isinstance(wanted, Described):
        wanted = wanted.value
    if wanted is not None and type(wanted) is not str:
        raise refusal("amqp:invalid-field", "The session filter is neither a string nor null.")
    return True, wanted


def _patience(wish: Attach, default: float) -> float:
    """Return the seconds that the client waits for a session."""
    given = (wish.properties or {}).get("com.microsoft:timeout")
    return given / 1000 if isinstance(given, int) else default


def _store(link: Link, raw: bytes, format_: int) -> bool:
    """Store the messages of a transfer to a queue or topic; a batch is stored as a whole or not at all."""
    state = link.state
    state.faults.check_busy(link.key)
    if link.session.connection.strikes(Step.SEND, link.path, link):
        return False
    entity = state.namespace.find(link.path)
    assert isinstance(entity, Queue | Topic)
    messages = [Message(part) for part in (split_batch(raw) if format_ == BATCH_FORMAT else [raw])]
    for message in messages:
        entity.check(message)
    for message in messages:
        entity.accept(message)
    return not link.session.connection.strikes(Step.STORED, link.path, link)
