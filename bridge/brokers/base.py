"""The seam to brokers: what the pipeline asks of one, and what it promises in return.

A broker hands out deliveries and takes them back settled. It alone knows offsets, locks and commits; it knows nothing
of rules and engines. All calls happen on one event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bridge.config.sources import DEAD_LETTER_TOPIC, OnUnreadable
from bridge.message import Message, Position, Unreadable
from bridge.provenance import Cause


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker can do; the contract suite asks for exactly this.

    durable: survives a crash of the broker's process. groups: several processes share a subscription by partition.
    commits: settlement is a contiguous prefix (else each message is settled alone). dead_letter_topics: dead letters go
    to a topic that can be subscribed to like any other. tombstones: a body may be absent. bytes_keys: a key may be any
    bytes (else text). repeated_headers: a header's name may occur more than once. timestamps: a publisher may set the
    time. ordered: what is given back comes again in its old place. keyless_tombstones: a message may have neither body
    nor key. max_message: bytes of the largest message.
    """

    name: str
    durable: bool
    groups: bool
    commits: bool
    dead_letter_topics: bool
    tombstones: bool
    bytes_keys: bool = True
    repeated_headers: bool = True
    timestamps: bool = True
    ordered: bool = True
    keyless_tombstones: bool = True
    max_message: int = 4 * 1024 * 1024


class Partition(Protocol):
    """One ordered part of a subscription, for as long as it is assigned to us once (one epoch)."""

    @property
    def topic(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def revoked(self) -> bool:
        """True from the moment the partition is taken away; it never turns false again."""
        ...

    @property
    def lost(self) -> bool:
        """Whether it was taken away by a lock that passed: one lost lock, however many messages it held."""
        ...

    @property
    def gap(self) -> int:
        """Records fetched since the committable prefix ended: what a crash now would redeliver."""
        ...

    def pause(self) -> None:
        """Fetch no more from this partition; membership is kept. Idempotent."""
        ...

    def resume(self) -> None:
        """Fetch again. Idempotent."""
        ...


@runtime_checkable
class Delivery(Protocol):
    """A message and the right to settle it, once."""

    @property
    def message(self) -> Message: ...

    @property
    def position(self) -> Position: ...

    @property
    def partition(self) -> Partition: ...

    @property
    def attempt(self) -> int:
        """How often the broker has delivered this message, from 1; 1 where the broker does not count."""
        ...

    @property
    def lost(self) -> bool:
        """Whether this message's own lock has passed: it cannot be settled any more, and is on its way again."""
        ...

    @property
    def settlement_unknown(self) -> bool:
        """Whether an attempt to settle it had no answer: with its lock passed, it may be done all the same."""
        ...

    async def complete(self) -> None:
        """The message is done. May be made durable later, in a batch; never before all earlier effects are.

        Raises: LockLost, PartitionRevoked, SettlementRefused (do not settle again), BrokerUnavailable (settle again).
        """
        ...

    async def dead_letter(self, cause: Cause) -> None:
        """Write the dead letter durably, then complete.

        Raises: BrokerUnavailable (nothing was settled; try again), LockLost, PartitionRevoked, SettlementRefused.
        """
        ...

    async def abandon(self) -> None:
        """Give the message back unsettled: it will be redelivered, here or elsewhere. Never raises for a lost right."""
        ...


class Listener(Protocol):
    """Told about assignments. The broker waits for `revoked` before it gives the partitions away."""

    async def assigned(self, partitions: Sequence[Partition]) -> None: ...

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        """Drop what is queued from them and wait, within the broker's deadline, for what is in flight."""
        ...


@dataclass(frozen=True, slots=True)
class UnreadablePolicy:
    """Treatment of messages that cannot be parsed, by whether their ordering key can be read.

    `dead_letter`: hand the message out with `Message.unreadable` set; the pipeline dead-letters or quarantines it.
    `stop_partition`: hand out nothing at or after it in its partition, and say so in `stopped`.
    `skip`: hand it out with `Message.unreadable` set; the pipeline completes it as ignored, counted and logged.
    """

    key_known: OnUnreadable = "dead_letter"
    key_unknown: OnUnreadable = "dead_letter"

    def of(self, unreadable: Unreadable) -> OnUnreadable:
        """Treatment of one message."""
        return self.key_known if unreadable.key_known else self.key_unknown


def stop_reason(first: int, last: int, unreadable: Unreadable, *, move: str = "") -> str:
    """Sentence for a person about a partition that `stop_partition` has stopped.

    first, last: offsets that the message stands for. move: another remedy, where the broker has one.
    """
    which = f"offset {first}" if first == last else f"offsets {first} to {last}"
    return (
        f"{which} cannot be read: {unreadable.detail}; nothing after that is read, so that order is kept; set "
        f"`on_unreadable: dead_letter` or `skip` on the source{move and f', or {move},'} and restart"
    )


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """One source's wishes.

    topics: one or more names. group: consumer group, where the broker has groups. start: `earliest` or `latest`, where
    a group has no position yet. dead_letter: topic for dead letters, `{topic}` stands for the origin's name; None: the
    place that the broker itself has for them. wishes: what only one kind of broker understands, a value of a class that
    this broker defines; None: its defaults. unreadable: treatment of messages that cannot be parsed.
    """

    topics: tuple[str, ...]
    group: str = ""
    start: str = "earliest"
    dead_letter: str | None = DEAD_LETTER_TOPIC
    broker_options: object | None = None
    unreadable: UnreadablePolicy = UnreadablePolicy()


class Subscription(Protocol):
    """A live consumer."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for deliveries, at most `limit`; empty only once the subscription is closed. Event-driven.

        Raises: BrokerUnavailable when the broker is away; the caller may call again.
        """
        ...

    async def flush(self) -> None:
        """Return when everything completed so far is durably settled. Raises: BrokerUnavailable."""
        ...

    async def close(self) -> None:
        """Flush what was completed, give the rest back, leave the group. Idempotent. Wakes `receive`."""
        ...

    def lag(self) -> dict[tuple[str, int], int]:
        """Per assigned (topic, partition): records behind the end that are not completed, as last known.

        Partitions whose end is not known yet are left out.
        """
        ...


@runtime_checkable
class UnloadableDelivery(Protocol):
    """A delivery whose message need not stay in memory, since its log hands it out again."""

    def unload(self) -> None:
        """Forget body and headers of the message; `load` it before it is settled."""
        ...

    def load(self, message: Message) -> None:
        """Take the message back."""
        ...


@runtime_checkable
class RereadableSubscription(Protocol):
    """A subscription to a log. Its deliveries are `UnloadableDelivery`s."""

    async def reread(
        self, partition: Partition, offsets: Sequence[int], size: int
    ) -> Sequence[tuple[int, Message | None]]:
        """Messages that were handed out before, without a change of any position.

        offsets: ascending. size: bytes after which no further message is read; the first one always is, and the others
        are left out. None stands for a message that the log has no more, or that cannot be read any more.

        Raises: BrokerUnavailable.
        """
        ...


@runtime_checkable
class StoppableSubscription(Protocol):
    """A subscription whose partitions may stop."""

    def stopped(self) -> dict[str, str]:
        """Reasons why no progress is made, by partition or part, each a sentence that says what to do."""
        ...


@runtime_checkable
class ObservedSubscription(StoppableSubscription, Protocol):
    """What a subscription may tell of itself beside its lag, for readiness and metrics."""

    @property
    def rebalances(self) -> int: ...

    @property
    def skipped(self) -> int:
        """Records passed over because the broker no longer had them."""
        ...

    @property
    def gaps(self) -> Mapping[str, int]:
        """Offsets passed that hold no message for a consumer, by kind: `control`, `aborted`, `compacted`, `deleted`."""
        ...

    @property
    def commits(self) -> tuple[int, float]:
        """How many commits there were, and the seconds they took together."""
        ...


@runtime_checkable
class LockingSubscription(Protocol):
    """What a subscription tells of itself whose messages are locked and not positioned."""

    @property
    def reconnects(self) -> int:
        """Receivers that were replaced after a fault."""
        ...

    @property
    def renewals(self) -> int:
        """Locks that were renewed."""
        ...


@runtime_checkable
class StallingSubscription(Protocol):
    """A subscription that knows which of its partitions stand still."""

    def stalled(self, seconds: float) -> dict[str, str]:
        """Partitions that made no progress for longer than that though records wait, with a sentence for a person."""
        ...


class Broker(Protocol):
    """A configured broker."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> Features: ...

    async def start(self) -> None:
        """Connect. Raises: BrokerUnavailable."""
        ...

    async def stop(self) -> None:
        """Flush and disconnect. Idempotent."""
        ...

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Subscription: ...

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Return when all messages are durably taken. Raises: BrokerUnavailable, PublishFailed."""
        ...


@runtime_checkable
class TopicBroker(Protocol):
    """A broker whose topics have to be there before they are used."""

    @property
    def cluster(self) -> str:
        """Identity of what is behind it, known once it is started: two brokers may be one cluster."""
        ...

    async def topics(self) -> dict[str, int]:
        """Number of partitions by topic. Raises: BrokerUnavailable."""
        ...

    async def ensure(self, topics: Collection[str]) -> None:
        """See that the topics are there; make them where that is wanted.

        Raises: BrokerError naming those that are missing, with the remedy; BrokerUnavailable.
        """
        ...
