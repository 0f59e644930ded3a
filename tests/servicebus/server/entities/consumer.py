"""Interface of a receiving link, as a queue uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.servicebus.server.errors import Refusal

if TYPE_CHECKING:
    from tests.servicebus.server.entities.sessions import MessageSession
    from tests.servicebus.server.message import Message


class Consumer(Protocol):
    """Receiver of a queue.

    deletes: messages are removed at delivery, without a lock. session_lock: the held session.
    """

    deletes: bool
    session_lock: MessageSession | None

    def wants(self) -> bool:
        """Return whether the consumer can take one more message now."""
        ...

    def deliver(self, message: Message) -> None: ...

    def granted(self, session: MessageSession) -> None:
        """Notify the consumer that it now holds the session for which it waited."""
        ...

    def mute(self) -> None:
        """Stop deliveries to the consumer without notice."""
        ...

    def detach(self, refusal: Refusal) -> None:
        """End the consumer with this reason."""
        ...
