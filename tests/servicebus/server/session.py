"""AMQP session: its windows, its links, and its unsettled deliveries."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tests.servicebus.server import dispositions
from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.decoder import elements
from tests.servicebus.server.amqp.encoder import FALSE, NULL, TRUE
from tests.servicebus.server.amqp.frames import frame
from tests.servicebus.server.amqp.performatives import Attach, Begin, Detach, Disposition, Flow, Transfer
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.server.attach import attach
from tests.servicebus.server.errors import Refusal
from tests.servicebus.server.faults import Step
from tests.servicebus.server.link import Link
from tests.servicebus.server.outgoing import OutgoingLink

if TYPE_CHECKING:
    from tests.servicebus.server.connection import Connection

WINDOW = 5_000
HANDLE_MAX = 255
FIRST_DELIVERY = 1 << 20
"""First delivery id of the server.

pyamqp applies dispositions regardless of their role; the server's ids must not meet the client's ids, which begin at 0.
"""


class Session:
    """AMQP session. remote_window: number of transfer frames that the client still accepts."""

    def __init__(self, connection: Connection, channel: int, begin: Begin) -> None:
        self.connection, self.channel, self.state = connection, channel, connection.state
        self.links: dict[int, Link] = {}
        """Links by handle; both sides use the client's handles."""
        self.unsettled: dict[int, tuple[OutgoingLink, uuid.UUID]] = {}
        """Link and lock token by delivery id."""
        self.remote_window = begin.incoming_window
        self.next_delivery_id = FIRST_DELIVERY
        self._next_incoming_id = begin.next_outgoing_id
        self._next_outgoing_id = 1
        self._transfers_since_flow = 0
        _, window, next_outgoing_id, outgoing_window = self._windows()
        fields = [encoder.ushort(channel), next_outgoing_id, window, outgoing_window, encoder.uint(HANDLE_MAX)]
        self.send(performatives.BEGIN, [*fields, NULL, NULL, NULL])

    def send(self, code: int, fields: list[bytes], payload: bytes = b"") -> None:
        self.connection.write(frame(self.channel, code, fields, payload))

    def send_transfer(self, fields: list[bytes], payload: bytes) -> None:
        self._next_outgoing_id += 1
        self.remote_window -= 1
        self.send(performatives.TRANSFER, fields, payload)

    def send_flow(self, link: list[bytes] | None = None) -> None:
        """Send a flow. link: the fields of one link, from `handle` on."""
        self.send(performatives.FLOW, self._windows() + (link or [NULL] * 4 + [FALSE, FALSE, NULL]))

    def _windows(self) -> list[bytes]:
        return [
            encoder.uint(self._next_incoming_id),
            encoder.uint(WINDOW),
            encoder.uint(self._next_outgoing_id),
            encoder.uint(65_536),
        ]

    def end(self) -> None:
        """End all links."""
        for link in list(self.links.values()):
            link.forget()

    # Received frames

    def on_frame(self, code: int, fields: list[Any], payload: bytes, body: bytes) -> None:
        """Handle a frame. Raises: Malformed."""
        if code == performatives.TRANSFER:
            self._on_transfer(performatives.read(Transfer, fields), payload)
        elif code == performatives.DISPOSITION:
            self._on_disposition(performatives.read(Disposition, fields), elements(body, body.index(0x53) + 2))
        elif code == performatives.FLOW:
            self._on_flow(performatives.read(Flow, fields))
        elif code == performatives.ATTACH:
            wish = performatives.read(Attach, fields)
            if wish.handle in self.links or wish.handle > HANDLE_MAX:
                raise Malformed(f"attach with handle {wish.handle}")
            attach(self, wish, elements(body, body.index(0x53) + 2))
        elif code == performatives.DETACH:
            self._on_detach(performatives.read(Detach, fields))
        else:
            raise Malformed(f"performative 0x{code:02x}")

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & 0xFFFFFFFF
        link = self.links.get(transfer.handle)
        if link is not None:  # otherwise the server detached while the transfer was on its way
            link.on_transfer(transfer, payload)
        self._transfers_since_flow += 1
        if self._transfers_since_flow > WINDOW // 2:
            self._transfers_since_flow = 0
            self.send_flow()

    def _on_flow(self, flow: Flow) -> None:
        seen = 1 if flow.next_incoming_id is None else flow.next_incoming_id
        self.remote_window = seen + flow.incoming_window - self._next_outgoing_id
        if flow.handle is not None:
            link = self.links.get(flow.handle)
            if link is not None and not self.connection.strikes(Step.FLOW, link.path, link):
                link.on_flow(flow)
        elif flow.echo:
            self.send_flow()
        if flow.handle is None:
            for link in self.links.values():
                link.window_opened()

    def _on_detach(self, detach: Detach) -> None:
        link = self.links.get(detach.handle)
        if link is not None and not self.connection.strikes(Step.DETACH, link.path, link):
            link.forget()
            self.send(performatives.DETACH, [encoder.uint(detach.handle), encoder.boolean(bool(detach.closed)), NULL])

    def _on_disposition(self, disposition: Disposition, raw: list[bytes]) -> None:
        if not disposition.role:
            return  # a disposition of messages that the server settled on arrival
        first, last = disposition.first, disposition.first if disposition.last is None else disposition.last
        if last - first < len(self.unsettled):
            ids = [number for number in range(first, last + 1) if number in self.unsettled]
        else:
            ids = sorted(number for number in self.unsettled if first <= number <= last)
        for number in ids:
            if self.connection.closed:
                return
            link, token = self.unsettled.pop(number)
            self.connection.locks.pop(token, None)
            self._settle(number, link, token, disposition, raw[4] if len(raw) > 4 else NULL)

    def _settle(
        self, number: int, link: OutgoingLink, token: uuid.UUID, disposition: Disposition, state: bytes
    ) -> None:
        """Settle one delivery. state: the encoded outcome."""
        assert link.queue is not None
        strikes = self.connection.strikes
        try:
            self.state.faults.check_busy(link.queue.key)
            if strikes(Step.SETTLE, link.path, link):
                return
            echo = dispositions.settle(link.queue, token, disposition.state, state)
            if strikes(Step.SETTLED, link.path, link):
                return
        except Refusal as no:
            echo = performatives.rejected(no.condition, no.description)
        if not disposition.settled:
            fields = [FALSE, encoder.uint(number), encoder.uint(number), TRUE, echo, FALSE]
            self.send(performatives.DISPOSITION, fields)
        strikes(Step.ECHOED, link.path, link)
