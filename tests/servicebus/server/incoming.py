"""Link on which the client sends: messages for an entity, or requests for a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import FALSE, TRUE
from tests.servicebus.server.amqp.performatives import ACCEPTED, Attach, Transfer
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.server.errors import Refusal
from tests.servicebus.server.link import Link

if TYPE_CHECKING:
    from tests.servicebus.server.session import Session

CREDIT = 1_000

Node = Callable[[Link, bytes, int], bool]
"""Handler of a whole message and its format. False: no outcome is sent. Raises: Refusal; Malformed."""


class IncomingLink(Link):
    def __init__(
        self, session: Session, wish: Attach, raw: list[bytes], path: str, right: str | None, node: Node
    ) -> None:
        super().__init__(session, wish, raw, path, right)
        self._node = node
        self._parts: list[bytes] = []
        self._size = 0
        self._first: Transfer | None = None

    def begin(self) -> None:
        """Complete the attach and grant credit. pyamqp presumes credit before the first flow."""
        size = encoder.ulong(self.state.config.max_message_size)
        self.answer(properties=[(encoder.symbol("com.microsoft:max-message-batch-size"), size)])
        self.credit = CREDIT
        self.send_credit()

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        if self._first is None:
            if transfer.delivery_id is None:
                raise Malformed("a transfer without a delivery id")
            self._first = transfer
        self._size += len(payload)
        if self._size <= self.state.config.max_message_size:
            self._parts.append(payload)  # too large messages are counted, not kept
        if transfer.more and not transfer.aborted:
            return
        first, raw, size = self._first, b"".join(self._parts), self._size
        self._first, self._parts, self._size = None, [], 0
        self.delivery_count += 1
        self.credit -= 1
        if not transfer.aborted:
            self._on_message(first, bool(first.settled or transfer.settled), raw, size)
        if self.credit < CREDIT // 2 and not self.gone:
            self.credit = CREDIT
            self.send_credit()

    def _on_message(self, first: Transfer, settled: bool, raw: bytes, size: int) -> None:
        try:
            limit = self.state.config.max_message_size
            if size > limit:
                text = f"The received message (size: {size} bytes) exceeds the limit ({limit} bytes) of the link."
                raise Refusal("amqp:link:message-size-exceeded", text)
            answered = self._node(self, raw, first.message_format or 0)
            outcome = ACCEPTED
        except Refusal as no:
            answered, outcome = True, performatives.rejected(no.condition, no.description)
        except Malformed as problem:
            answered, outcome = True, performatives.rejected("amqp:decode-error", str(problem))
        if answered and not settled:
            number = encoder.uint(first.delivery_id)
            self.session.send(performatives.DISPOSITION, [TRUE, number, number, TRUE, outcome, FALSE])
