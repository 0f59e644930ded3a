"""Topic: copies messages to the subscriptions whose rules match."""

from __future__ import annotations

from tests.servicebus.server.clock import Clock
from tests.servicebus.server.config import QueueConfig, SubscriptionConfig, TopicConfig
from tests.servicebus.server.counters import Counters
from tests.servicebus.server.entities.duplicates import Duplicates
from tests.servicebus.server.entities.filters import Facts, Rule
from tests.servicebus.server.entities.limits import PropertyLimits
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import message_not_found
from tests.servicebus.server.message import SCHEDULED, Message


class Subscription(Queue):
    """Subscription: a queue filled by a topic. rules: by name."""

    def __init__(
        self,
        topic: TopicConfig,
        config: SubscriptionConfig,
        clock: Clock,
        counters: Counters,
        limits: PropertyLimits | None = None,
    ) -> None:
        path = f"{topic.name}/Subscriptions/{config.name}"
        ttls = [ttl for ttl in (config.default_ttl, topic.default_ttl) if ttl is not None]
        queue = QueueConfig(
            path,
            config.lock_duration,
            config.max_delivery_count,
            config.requires_session,
            default_ttl=min(ttls, default=None),
            dead_letter_on_expiration=config.dead_letter_on_expiration,
        )
        super().__init__(path, queue, clock, counters, limits)
        self.rules: dict[str, Rule] = {rule.name: rule for rule in config.rules}

    def takes(self, facts: Facts) -> bool:
        return any(rule.filter.matches(facts) for rule in self.rules.values())


class Topic:
    """Topic with its subscriptions. path: as configured. key: the path in lower case."""

    def __init__(
        self, config: TopicConfig, clock: Clock, counters: Counters, limits: PropertyLimits | None = None
    ) -> None:
        self.path, self.key, self.config = config.name, config.name.lower(), config
        self.clock, self.counters, self.limits = clock, counters, limits
        self.subscriptions = {
            one.name.lower(): Subscription(config, one, clock, counters, limits) for one in config.subscriptions
        }
        self.scheduled: dict[int, Message] = {}
        self._duplicates = Duplicates(int(config.duplicate_detection * 1000))
        self._last_sequence_number = 0

    def check(self, message: Message) -> None:
        """Check whether a send of the message is allowed. Raises: the refusal of the send."""
        if self.limits is not None:
            self.limits.check(message)
        for subscription in self.subscriptions.values():
            if subscription.sessions is not None and subscription.takes(Facts(message)):
                subscription.check(message)

    def accept(self, message: Message) -> int:
        """Copy a message to the subscriptions. Returns its sequence number in the topic; 0 for a duplicate."""
        self.check(message)
        now = self.clock.now()
        if self._duplicates.seen(message.message_id, now):
            self.counters.duplicates[self.key] += 1
            return 0
        self._last_sequence_number += 1
        message.sequence_number = self._last_sequence_number
        self.counters.accepted[self.key] += 1
        if message.scheduled_for and message.scheduled_for > now:
            message.state = SCHEDULED
            self.scheduled[message.sequence_number] = message
            message.timer = self.clock.at(message.scheduled_for, self._due, message)
        else:
            self._copy(message)
        return message.sequence_number

    def cancel(self, sequence_numbers: list[int]) -> None:
        """Cancel scheduled messages, all or none. Raises: message-not-found."""
        for number in sequence_numbers:
            if number not in self.scheduled:
                raise message_not_found(number)
        for number in sequence_numbers:
            timer = self.scheduled.pop(number).timer
            assert timer is not None
            timer.cancel()

    def _due(self, message: Message) -> None:
        if self.scheduled.pop(message.sequence_number, None) is not None:
            self._copy(message)

    def _copy(self, message: Message) -> None:
        facts = Facts(message)
        for subscription in self.subscriptions.values():
            if subscription.takes(facts):
                twin = message.copy()
                twin.timer, twin.scheduled_for = None, None
                subscription.accept(twin, enqueued_sequence_number=message.sequence_number)

    def clear(self) -> None:
        """Remove all messages of the topic and its subscriptions."""
        self.cancel(list(self.scheduled))
        self._duplicates = Duplicates(int(self.config.duplicate_detection * 1000))
        for subscription in self.subscriptions.values():
            subscription.clear()
