"""Link on which the server sends: to a receiver, or answers of a request node."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from tests.servicebus.server.access.keys import LISTEN
from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import FALSE, NULL
from tests.servicebus.server.amqp.performatives import Attach, Flow
from tests.servicebus.server.amqp.values import Described
from tests.servicebus.server.clock import ticks
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.entities.sessions import MessageSession
from tests.servicebus.server.errors import Refusal, refusal
from tests.servicebus.server.faults import Step
from tests.servicebus.server.link import Link
from tests.servicebus.server.message import Message

if TYPE_CHECKING:
    from tests.servicebus.server.session import Session

SETTLED_BY_SENDER = 1
FRAME_ROOM = 128
"""Bytes of a frame reserved for the performative."""
WINDOW_ROOM = 8
"""Number of transfer frames that the largest message may need."""
SESSION_FILTER = "com.microsoft:session-filter"
SESSION_FILTER_CODE = 0x137_0000_000C


class OutgoingLink(Link):
    """Link to a receiver or a reply link. queue: None: a request node. deletes: messages are sent settled."""

    server_sends = True

    def __init__(self, session: Session, wish: Attach, raw: list[bytes], path: str) -> None:
        super().__init__(session, wish, raw, path)
        self.queue: Queue | None = None
        self.deletes = wish.snd_settle_mode == SETTLED_BY_SENDER
        self.session_lock: MessageSession | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._muted = False

    def receive_from(self, queue: Queue) -> None:
        """Make the link a receiver of this queue."""
        self.queue, self._right = queue, LISTEN

    # Called by the queue

    def begin(self) -> None:
        """Complete the attach."""
        if self.session_lock is None:
            self.answer()
        else:
            id_ = encoder.string(self.session_lock.id)
            # Go's SDK reads only a described filter, JavaScript's only a plain one: answer in the form of the request
            wanted = self.wish.source.value[7][SESSION_FILTER] if self.wish.source else None
            filter_ = encoder.described(SESSION_FILTER_CODE, id_) if isinstance(wanted, Described) else id_
            filters = encoder.mapping([(encoder.symbol(SESSION_FILTER), filter_)])
            address = self.wish.source.value[0] if self.wish.source else None
            fields = [encoder.string(address), *[NULL] * 6, filters, NULL, NULL, NULL]
            source = encoder.described(performatives.SOURCE, encoder.sequence(fields))
            end = encoder.int64(ticks(self.session_lock.locked_until))
            self.answer(source, [(encoder.symbol("com.microsoft:locked-until-utc"), end)])
        if self.queue is not None:
            self.queue.add_consumer(self)

    def wait_for_session(self, seconds: float) -> None:
        """Attach when a session is free, or refuse after `seconds`."""
        assert self.queue is not None
        assert self.queue.sessions is not None
        self._patience = asyncio.get_running_loop().call_later(seconds, self._give_up)
        self.session.links[self.wish.handle] = self
        self.queue.sessions.wait(self)

    def _give_up(self) -> None:
        self.refuse(refusal("com.microsoft:timeout", "The operation did not complete within the allotted timeout."))

    def granted(self, session: MessageSession) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self.begin()

    def mute(self) -> None:
        self._muted = True

    def detach(self, why: Refusal | None) -> None:
        if self._muted:
            self.forget()
        else:
            super().detach(why)

    def forget(self) -> None:
        super().forget()
        unsettled = self.session.unsettled
        for number in [number for number, (link, _) in unsettled.items() if link is self]:
            _, token = unsettled.pop(number)  # the delivery ends with its link; the lock may continue
            if self.state.config.locks_end_with_link and self.queue is not None and self.queue.sessions is None:
                self.queue.end_lock(token)
        if self._patience is not None:
            self._patience.cancel()
        if self.queue is not None:
            self.queue.remove_consumer(self)

    def wants(self) -> bool:
        ready = self.credit > 0 and self.session.remote_window > WINDOW_ROOM
        return ready and not self.gone and not self._muted

    def deliver(self, message: Message) -> None:
        token = message.token
        self.credit -= 1
        self.delivery_count += 1
        number = self.session.next_delivery_id
        self.session.next_delivery_id += 1
        if token is not None:
            self.session.unsettled[number] = (self, token)
            if self.state.config.locks_end_with_connection and self.queue is not None:
                self.session.connection.locks[token] = self.queue
        try:
            if self.session.connection.strikes(Step.DELIVER, self.path, self):
                return
            # The tag is the lock token; a settled message has no lock and an empty tag
            self._transfer(number, b"" if token is None else token.bytes_le, message.encode(), token is None)
            self.session.connection.strikes(Step.DELIVERED, self.path, self)
        except Refusal as no:
            self.detach(no)

    # Called by a request node

    def reply(self, payload: bytes) -> None:
        """Send an answer; credit is not required."""
        number = self.session.next_delivery_id
        self.session.next_delivery_id += 1
        self.delivery_count += 1
        self._transfer(number, _tag(number), payload, settled=True)

    @property
    def reply_address(self) -> str | None:
        """Return the address at which the client expects answers."""
        target = self.wish.target.value if self.wish.target is not None else None
        return str(target[0]) if isinstance(target, list) and target and target[0] is not None else None

    def _transfer(self, number: int, tag: bytes, payload: bytes, settled: bool) -> None:
        room = self.session.connection.max_frame_size - FRAME_ROOM
        handle = encoder.uint(self.wish.handle)
        fields = [handle, encoder.uint(number), encoder.binary(tag), encoder.uint(0), encoder.boolean(settled)]
        rest = [NULL, NULL, FALSE, FALSE, FALSE]
        while True:
            part, payload = payload[:room], payload[room:]
            self.session.send_transfer([*fields, encoder.boolean(bool(payload)), *rest], part)
            if not payload:
                return
            fields = [handle, NULL, NULL, NULL, NULL]

    # Called for frames of the client

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is None or self._muted:
            return
        self.credit = max(0, (flow.delivery_count or 0) + flow.link_credit - self.delivery_count)
        if self.queue is None:
            return
        self.queue.pump()
        if flow.drain and not self.gone:
            self.delivery_count += self.credit
            self.credit = 0
            self.send_credit(drained=True)
        elif flow.echo and not self.gone:
            self.send_credit()

    def window_opened(self) -> None:
        if self.queue is not None:
            self.queue.kick()


def _tag(number: int) -> bytes:
    return struct.pack(">I", number & 0xFFFFFFFF)
