"""Base of both kinds of links: attach and detach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import FALSE, NULL, TRUE
from tests.servicebus.server.amqp.performatives import Attach, Flow, Transfer
from tests.servicebus.server.errors import Refusal

if TYPE_CHECKING:
    from tests.servicebus.server.session import Session

RELAXED, FIRST = 2, 0
"""Defaults of the settle modes (part 2.8.2, 2.8.3): mixed, and first."""


class Link:
    """AMQP link. path: the node to which the link is attached. raw: the encoded fields of the client's attach."""

    server_sends = False

    def __init__(self, session: Session, wish: Attach, raw: list[bytes], path: str, right: str | None = None) -> None:
        self.session, self.wish, self.path, self.state = session, wish, path, session.state
        self._raw = raw + [NULL] * (14 - len(raw))
        self._right = right
        self.attached = self.gone = False
        self.credit = self.delivery_count = 0

    @property
    def key(self) -> str:
        return self.path.lower()

    def answer(self, source: bytes | None = None, properties: list[tuple[bytes, bytes]] | None = None) -> None:
        """Accept the attach. source: replaces the source that the client sent."""
        self.session.links[self.wish.handle] = self
        self.attached = True
        self.state.counters.attaches[self.key] += 1
        self._attach(source or self._raw[5], self._raw[6], encoder.mapping(properties) if properties else NULL)

    def refuse(self, no: Refusal) -> None:
        """Refuse the attach: send an attach without a terminus, then a detach with the reason (part 2.6.3)."""
        self.forget()
        self.state.counters.refused_attaches[self.key] += 1
        self._attach(NULL, NULL, NULL)
        self._say_detached(no)

    def detach(self, why: Refusal | None) -> None:
        """Detach the link from the server's side."""
        if self.gone:
            return
        attached = self.attached
        self.forget()
        if attached:
            self.state.counters.detaches[self.key] += 1
            self._say_detached(why)
        elif why is not None:
            self.refuse(why)

    def check_claim(self) -> None:
        """Detach the link when its claim has ended."""
        if self._right is None:
            return
        try:
            self.session.connection.claims.demand(self.path, self._right)
        except Refusal as no:
            self.detach(no)

    def forget(self) -> None:
        """Remove the link from its session, after a detach by either side."""
        self.gone = True
        if self.session.links.get(self.wish.handle) is self:
            del self.session.links[self.wish.handle]

    def _attach(self, source: bytes, target: bytes, properties: bytes) -> None:
        wish, accepted = self.wish, source != NULL
        snd = RELAXED if wish.snd_settle_mode is None else wish.snd_settle_mode
        rcv = FIRST if wish.rcv_settle_mode is None else wish.rcv_settle_mode
        fields = [
            encoder.string(wish.name),
            encoder.uint(wish.handle),
            encoder.boolean(self.server_sends is False),
            encoder.ubyte(snd if accepted else None),
            encoder.ubyte(rcv if accepted else None),
            source,
            target,
            NULL,
            FALSE,
            encoder.uint(0) if self.server_sends else NULL,
            encoder.ulong(self.state.config.max_message_size),
            NULL,
            NULL,
            properties,
        ]
        self.session.send(performatives.ATTACH, fields)

    def _say_detached(self, why: Refusal | None) -> None:
        error = performatives.error(why.condition, why.description) if why else NULL
        self.session.send(performatives.DETACH, [encoder.uint(self.wish.handle), TRUE, error])

    def send_credit(self, *, drained: bool = False) -> None:
        fields = [
            encoder.uint(self.wish.handle),
            encoder.uint(self.delivery_count),
            encoder.uint(self.credit),
            NULL,
            encoder.boolean(drained),
            FALSE,
            NULL,
        ]
        self.session.send_flow(fields)

    def on_flow(self, flow: Flow) -> None:
        """Handle a flow of the client for this link."""

    def window_opened(self) -> None:
        """Handle a larger transfer window of the session."""

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Handle a transfer frame from the client."""
