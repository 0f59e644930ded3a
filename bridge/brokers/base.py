"""Broker interface: the calls that the pipeline makes on a broker, and the guarantees of the broker in return.

A broker hands out deliveries and takes them back settled. Only the broker knows offsets, locks and commits. A broker
knows nothing of rules and engines. All calls happen on one event loop.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from bridge.config.model.servicebus import ServiceBusSourceConfig, SessionsConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC, KafkaSourceConfig, LimitsConfig, OnUnreadable
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position, Unreadable
from bridge.core.provenance import Cause
from bridge.core.states import PartitionState

OUTAGE = 86_400.0
"""Outage in seconds that messages should outlast: a day. `bridge doctor` warns below it."""

Positions = Sequence[Position | None] | None
"""Positions of published messages, in order; None where the broker does not return them."""


@dataclass(frozen=True, slots=True)
class Features:
    """Capabilities of a broker.

    groups: several processes share a subscription by partition.
    keyless_tombstones: a message may have neither body nor key.
    """

    groups: bool
    keyless_tombstones: bool = True


class Partition(Protocol):
    """One ordered part of a subscription, for the duration of one assignment to this process."""

    @property
    def topic(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def revoked(self) -> bool:
        """True from the moment the partition is revoked; never turns false again."""
        ...

    @property
    def lost(self) -> bool:
        """True when the partition was revoked because its lock expired. One lost lock counts once, however many
        messages it covered.
        """
        ...

    @property
    def gap(self) -> int:
        """Number of records fetched since the end of the committable prefix; a crash now would redeliver them."""
        ...

    def pause(self) -> None:
        """Stop fetching from this partition. Group membership is kept. Idempotent."""
        ...

    def resume(self) -> None:
        """Fetch again. Idempotent."""
        ...


@runtime_checkable
class Delivery(Protocol):
    """A message and the right to settle it once."""

    @property
    def message(self) -> Message: ...

    @property
    def position(self) -> Position: ...

    @property
    def partition(self) -> Partition: ...

    @property
    def attempt(self) -> int:
        """Number of times the broker has delivered this message, from 1; always 1 for a broker that does not count."""
        ...

    @property
    def lost(self) -> bool:
        """True when this message's own lock has expired. The message cannot be settled any more and will be
        redelivered.
        """
        ...

    @property
    def settlement_unknown(self) -> bool:
        """True when a settlement attempt got no answer. After the lock expires, the message may nevertheless be
        settled.
        """
        ...

    async def complete(self) -> None:
        """Mark the message as done.

        The broker may make this durable later, in a batch, but never before all earlier effects are durable.
        Raises: LockLost, PartitionRevoked, SettlementRefused (do not settle again), BrokerUnavailable (settle again).
        """
        ...

    async def dead_letter(self, cause: Cause) -> None:
        """Write the dead letter durably, then complete the message.

        Raises: BrokerUnavailable (nothing was settled; try again), LockLost, PartitionRevoked, SettlementRefused.
        """
        ...

    async def abandon(self) -> None:
        """Give the message back unsettled, for redelivery here or elsewhere. Never raises for a lost right."""
        ...


class Listener(Protocol):
    """Receiver of assignment notifications. The broker waits for `revoked` before it gives the partitions away."""

    async def assigned(self, partitions: Sequence[Partition]) -> None: ...

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        """Drop queued deliveries of the partitions and wait, within the broker's deadline, for those in flight."""
        ...


@dataclass(frozen=True, slots=True)
class UnreadablePolicy:
    """Treatment of messages that cannot be parsed, by whether their ordering key can be read.

    `dead_letter`: hand the message out with `Message.unreadable` set; the pipeline dead-letters or quarantines it.
    `stop_partition`: hand out nothing at or after the message in its partition, and report the reason in `stopped`.
    `skip`: hand the message out with `Message.unreadable` set; the pipeline completes it as ignored, counted and
    logged.
    """

    key_known: OnUnreadable = "dead_letter"
    key_unknown: OnUnreadable = "dead_letter"

    def of(self, unreadable: Unreadable) -> OnUnreadable:
        """Treatment of one message."""
        return self.key_known if unreadable.key_known else self.key_unknown


def seek_command(topic: str, number: int, offset: int | str) -> str:
    """Command that moves the position of a source in one partition."""
    return f"`bridge sources seek SOURCE --topic {topic} --partition {number} --to {offset}`"


def stop_reason(place: tuple[str, int], first: int, last: int, unreadable: Unreadable) -> str:
    """Sentence for a person about a partition that `stop_partition` has stopped.

    place: topic and number of the partition. first, last: offsets that the message stands for.
    """
    which = f"offset {first}" if first == last else f"offsets {first} to {last}"
    return (
        f"the partition is {PartitionState.STOPPED} at {which}: {unreadable.detail}; later records wait, which keeps "
        f"the order; set `on_unreadable: dead_letter` or `skip` on the source and restart, or skip it with "
        f"{seek_command(*place, last + 1)}"
    )


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """Options of one source's subscription.

    topics: one or more names.
    group: consumer group, where the broker has groups.
    start: `earliest` or `latest`, used while a group has no position yet.
    dead_letter: topic for dead letters, in which `{topic}` stands for the name of the original topic; None: the
    broker's own dead-letter place.
    unreadable: treatment of messages that cannot be parsed.
    max_hold: longest time in seconds for which a delivery may wait for a retry.
    prefetch_bytes: bytes that wait to be handed out, above which a broker that counts them requests no more.
    paused: begin paused, where the subscription is a `PausableSubscription`.

    kafka, servicebus: options of one kind of broker, which other kinds ignore.
    sessions: how sessions are read; None for entities without sessions.
    """

    topics: tuple[str, ...]
    group: str = ""
    start: str = "earliest"
    dead_letter: str | None = DEAD_LETTER_TOPIC
    unreadable: UnreadablePolicy = UnreadablePolicy()
    max_hold: float = math.inf
    prefetch_bytes: int = LimitsConfig().max_in_flight_bytes
    paused: bool = False
    kafka: KafkaSourceConfig = field(default_factory=KafkaSourceConfig)
    servicebus: ServiceBusSourceConfig = field(default_factory=ServiceBusSourceConfig)
    sessions: SessionsConfig | None = None


class Subscription(Protocol):
    """An open consumer."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for at most `limit` deliveries. Event-driven; the result is empty only after the subscription is closed.

        Raises: BrokerUnavailable when the broker is away; the caller may call again.
        """
        ...

    async def flush(self) -> None:
        """Return when all completed deliveries are durably settled. Raises: BrokerUnavailable."""
        ...

    async def close(self) -> None:
        """Flush completed deliveries, give the rest back and leave the group. Idempotent. Wakes `receive`."""
        ...

    def lag(self) -> dict[tuple[str, int], int]:
        """Last known number of records that are not completed, by assigned (topic, partition).

        Partitions with an unknown end are left out.
        """
        ...


@runtime_checkable
class AgingSubscription(Protocol):
    """A subscription that knows how long its records have waited."""

    def oldest(self) -> dict[tuple[str, int], float]:
        """Broker's time of the oldest record that is not completed, in seconds since the Unix epoch, by assigned
        (topic, partition).

        Partitions without such a record, or where its time is unknown, are left out. Makes no call to the broker.
        """
        ...


@runtime_checkable
class UnloadableDelivery(Protocol):
    """A delivery whose message need not stay in memory, since its log can hand it out again."""

    def unload(self) -> None:
        """Drop body and headers of the message from memory; call `load` before settlement."""
        ...

    def load(self, message: Message) -> None:
        """Put the message back."""
        ...


@runtime_checkable
class RereadableSubscription(Protocol):
    """A subscription to a log. Its deliveries are `UnloadableDelivery`s."""

    async def reread(
        self, partition: Partition, offsets: Sequence[int], size: int
    ) -> Sequence[tuple[int, Message | None]]:
        """Read messages that were handed out before. No position changes.

        offsets: ascending.
        size: bytes after which no further message is read. The first message is always read; messages after the
        limit are left out. None stands for a message that the log no longer has, or can no longer read.
        Raises: BrokerUnavailable.
        """
        ...


@runtime_checkable
class StoppableSubscription(Protocol):
    """A subscription whose partitions may stop."""

    def stopped(self) -> dict[str, str]:
        """Reasons for missing progress, by partition or part; each is a sentence with the remedy."""
        ...


@runtime_checkable
class ObservedSubscription(StoppableSubscription, Protocol):
    """Facts about a subscription beside its lag, for readiness and metrics."""

    @property
    def rebalances(self) -> int: ...

    @property
    def skipped(self) -> int:
        """Records passed over because the broker no longer had them."""
        ...

    @property
    def gaps(self) -> Mapping[str, int]:
        """Passed offsets without a message for a consumer, by kind: `control`, `aborted`, `compacted`, `deleted`."""
        ...

    @property
    def commits(self) -> tuple[int, float]:
        """Number of commits, and their total duration in seconds."""
        ...


@runtime_checkable
class LockingSubscription(Protocol):
    """Counters of a subscription whose messages are locked instead of positioned."""

    @property
    def reconnects(self) -> int:
        """Number of receivers that were replaced after a fault."""
        ...

    @property
    def renewals(self) -> int:
        """Number of renewed locks."""
        ...


@runtime_checkable
class PausableSubscription(Protocol):
    """A subscription that holds more than positions: a long pause has to let go of it.

    Other subscriptions keep everything while their caller receives nothing.
    """

    def pause(self) -> None:
        """Take no more messages, and hand none out. Give back those that were not handed out, without counting a
        delivery. Close sessions as soon as their deliveries in flight are settled. Idempotent.
        """
        ...

    def resume(self) -> None:
        """Take messages again. Idempotent."""
        ...


@runtime_checkable
class StallingSubscription(Protocol):
    """A subscription that detects partitions without progress."""

    def stalled(self, seconds: float) -> dict[str, str]:
        """Partitions that made no progress for more than `seconds` although records wait, each with a sentence for a
        person.
        """
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

    async def publish(self, topic: str, messages: Sequence[Message]) -> Positions:
        """Return when the broker has durably accepted all messages. Raises: BrokerUnavailable, PublishFailed."""
        ...


@runtime_checkable
class ListingBroker(Protocol):
    """A broker that can list its topics."""

    async def topics(self) -> dict[str, int]:
        """Number of partitions by topic. Raises: BrokerUnavailable."""
        ...


@runtime_checkable
class TopicBroker(ListingBroker, Protocol):
    """A broker whose topics must exist before use."""

    @property
    def cluster(self) -> str:
        """Identity of the cluster behind this broker, known after the start. Two brokers may be one cluster."""
        ...

    async def ensure(self, topics: Collection[str]) -> None:
        """Ensure that the topics exist; create missing topics where the configuration allows it.

        Raises: BrokerError naming the missing topics, with the remedy; BrokerUnavailable.
        """
        ...


@runtime_checkable
class BacklogBroker(Protocol):
    """A broker that knows the positions of consumer groups."""

    async def start_reading(self) -> None:
        """Prepare for `backlog` alone, instead of `Broker.start`. Creates nothing. Stop the broker as usual.

        Raises: BrokerUnavailable.
        """
        ...

    async def backlog(self, options: SubscribeOptions) -> dict[tuple[str, int], int]:
        """Number of records at and after the position of the group, by topic and partition. Joins no group.

        Topics that do not exist are left out. Records that the group has completed above its position do not count.
        Raises: BrokerError, BrokerUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Range of messages to read.

    start: `earliest`, `latest` for future messages only, or the offset of the first message in every partition.
    partition: None for all.
    follow: continue with future messages. Without `follow`, a log ends with the messages that existed at the
    beginning, and a queue when no message is left.
    ranges: first offset to read and end, by partition, instead of `start` and `partition`; only for a `LogBroker`.
    """

    topic: str
    start: Literal["earliest", "latest"] | int = "earliest"
    partition: int | None = None
    follow: bool = False
    ranges: Mapping[int, tuple[int, int]] | None = None

    def first(self, begin: int, end: int) -> int:
        """First offset to read in a partition that has the offsets from `begin` up to `end`."""
        match self.start:
            case "earliest":
                return begin
            case "latest":
                return end
            case offset:
                return min(max(offset, begin), end)


@runtime_checkable
class ReadableBroker(Protocol):
    """A broker whose topics can be read without consuming them. Every broker with sources is one."""

    def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        """Messages with their positions, in order within a partition. Close the iterator when leaving it early.

        Raises: BrokerError when there is no such topic or partition, BrokerUnavailable.
        """
        ...


def readable(broker: Broker) -> ReadableBroker:
    """Broker of a source, whose topics can be read. Raises: BrokerError for one that publishes only."""
    if not isinstance(broker, ReadableBroker):
        raise BrokerError(f"nothing can be read from the broker {broker.name!r}: it publishes only")
    return broker


@dataclass(frozen=True, slots=True)
class LogRanges:
    """Offsets that a topic has.

    cluster: as in positions.
    offsets: first offset and end, by partition.
    whole: False where messages between them can be missing, as after compaction.
    """

    cluster: str
    offsets: Mapping[int, tuple[int, int]]
    whole: bool


@runtime_checkable
class LogBroker(ReadableBroker, Protocol):
    """A broker whose topics are logs: messages leave a partition in their order."""

    async def ranges(self, topic: str) -> LogRanges:
        """Offsets of a topic. Raises: BrokerError when there is no such topic, BrokerUnavailable."""
        ...


@runtime_checkable
class CompletingBroker(Protocol):
    """A broker with queues, whose messages leave one by one."""

    async def complete(self, topic: str, numbers: Collection[int]) -> int:
        """Complete the messages with these sequence numbers, as far as they can be reached; return their number.

        Messages before them are locked for a moment and abandoned, which other consumers of the queue see.
        Raises: BrokerError, BrokerUnavailable.
        """
        ...
