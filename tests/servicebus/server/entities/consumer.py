"""What a queue sees of a receiver's link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.servicebus.server.errors import Refusal

if TYPE_CHECKING:
    from tests.servicebus.server.entities.sessions import MessageSession
    from tests.servicebus.server.message import Message


class Consumer(Protocol):
    """deletes: messages are gone with their delivery, unlocked. session_lock: the session it holds."""

    deletes: bool
    session_lock: MessageSession | None

    def wants(self) -> bool:
        """Whether it can take one more message now."""
        ...

    def deliver(self, message: Message) -> None: ...

    def granted(self, session: MessageSession) -> None:
        """The session it waited for is its own now."""
        ...

    def mute(self) -> None:
        """Deliver nothing to it any more, silently."""
        ...

    def detach(self, refusal: Refusal) -> None:
        """It is over, for this reason."""
        ...
