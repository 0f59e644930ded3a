"""Parts that a source's pipeline is made of: settings, rules, and the engines as it uses them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bridge.brokers.base import SubscribeOptions
from bridge.config.model.sources import LimitsConfig
from bridge.core.commands import Command, Decision
from bridge.core.instance_protocol import InstanceState
from bridge.core.message import Envelope, Message, Position
from bridge.core.origin import MessageOrigin
from bridge.core.provenance import Cause
from bridge.core.stored_message import StoreEarly
from bridge.pipeline.breaker import Breaker

if TYPE_CHECKING:
    from bridge.engines.commands.instance_reader import PreviousRun

SLICE = 0.005
"""Longest seconds for which intake and workers keep the event loop when no await suspends them."""

Decode = Callable[[Message, Position], Envelope]
"""Callback that decodes a message. Raises: MessageError."""

Prepare = Callable[[Sequence[Message]], Awaitable[None]]
"""Callback that looks up what decoding these messages needs. Raises: RegistryUnavailable."""

Execute = Callable[[Command, MessageOrigin], Awaitable[None]]
"""Callback that gives one command and its origin to an engine. Raises: EngineError."""

Restart = Callable[[Command, MessageOrigin, "PreviousRun"], Awaitable[None]]
"""Callback that starts an instance in place of a run on another engine, and executes the command.

Raises: EngineError.
"""

RecordDeadLetter = Callable[[Cause, Position], Awaitable[None]]
"""Callback that records a written dead letter for `bridge trace`. Raises nothing."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Settings of one source, which hold as long as its pipeline: those of its messages are in a `RuleSet`."""

    name: str
    subscribe: SubscribeOptions
    limits: LimitsConfig
    ordering: str = "key"
    trusted_replay: bool = False


@dataclass(frozen=True, slots=True)
class MovingPort:
    """Engine as routes use it whose instances move. A `bridge.engines.commands.moving.InstanceEngine`.

    waits: True when earlier messages of the instance wait on this engine. Raises: AlreadyTaken, EngineError.
    notify: notifies these messages that their instance is on some engine.
    """

    read_state: Callable[[Command], Awaitable[InstanceState]]
    execute: Execute
    execute_found: Execute
    restart: Restart
    waits: Callable[[Command, MessageOrigin], Awaitable[bool]]
    notify: Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EnginePort:
    """Engine as the pipeline uses it.

    store_early: None where no rule lets a command wait for its instance.
    moving: None where no instances move.
    """

    execute: Execute
    breaker: Breaker
    store_early: StoreEarly | None = None
    moving: MovingPort | None = None


class SourceClaims(Protocol):
    """Protocol of the claim check of one source, for messages whose payload lies elsewhere.

    size: bytes that one payload may have.
    """

    @property
    def size(self) -> int: ...

    def refers(self, message: Message) -> bool:
        """True when the message may have a reference in the place of its payload. Raises: MessageError."""
        ...

    async def resolve(self, message: Message) -> Message:
        """Message with its payload. Raises: MessageError, ClaimStoreUnavailable."""
        ...


class Routes(Protocol):
    """Protocol of a source's compiled rules. portioned: routing a message may take long."""

    portioned: bool

    def route(self, envelope: Envelope) -> Decision:
        """Route a message. Raises: MessageError."""
        ...

    def routing(self, envelope: Envelope) -> Generator[None, None, Decision]:
        """Route a message in portions of work, and yield between them. Raises: MessageError."""
        ...

    def ordering_key(self, envelope: Envelope) -> str | None:
        """Ordering key of a message. Raises: MessageError."""
        ...

    def value(self, envelope: Envelope) -> str:
        """Digest of the value of `limits.per` for a message; empty without one."""
        ...
