"""Configuration of sources, which consume messages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bridge.config.model.servicebus import ServiceBusSourceConfig, Sessions
from bridge.config.model.types import (
    Duration,
    Entity,
    Expression,
    Integer,
    Model,
    Name,
    Number,
    PerValue,
    Size,
    Template,
    Topic,
    check_entity,
    check_subscription,
)


def _check_ordering(value: str) -> str:
    if value not in ("key", "partition", "none") and "{{" not in value:
        raise ValueError("must be key, partition, none, or a template with {{ }} in it")
    return value


def _check_dead_letter(value: str) -> str:
    if not value.replace("{topic}", "topic"):
        raise ValueError("must not be empty")
    check_entity(value.replace("{topic}", "t"))
    return value


def _check_attribute(value: str) -> str:
    if value not in ATTRIBUTES and not (value.isascii() and value.isalnum() and value == value.lower()):
        raise ValueError("an attribute is named by lower-case letters and digits, as CloudEvents says")
    return value


ATTRIBUTES = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
"""Attributes of CloudEvents 1.0. A source's `attributes` may also set extensions."""


DEAD_LETTER_TOPIC = "{topic}.dlq"
"""Default dead-letter topic, for brokers without a dead-letter place of their own."""

SUB_QUEUES = {"dead_letter": "/$DeadLetterQueue", "transfer_dead_letter": "/$Transfer/$DeadLetterQueue"}
"""Suffix that a sub-queue of Service Bus adds to the path of its entity."""


OnUnreadable = Literal["dead_letter", "stop_partition", "skip"]
"""Treatment of messages that the broker's client library cannot parse."""


class RetryConfig(Model):
    """Retries in memory, per ordering key. Outages do not count as retries: the source is held."""

    initial: Duration = Field(0.2, description="Wait after the first failure.")
    multiplier: Number = Field(2.0, ge=1.0, le=10.0, description="Factor from one wait to the next.")
    max_delay: Duration = Field(10.0, description="Longest wait between two attempts.")
    in_memory: Duration = Field(30.0, description="Longest time a message holds its key before it is dead-lettered.")
    bug_attempts: Integer = Field(3, ge=1, description="Attempts when the failure is an unexpected exception.")


class SourcePerConfig(Model):
    """Limits of a source per value of a template. Messages beyond them wait; messages with other values continue."""

    value: PerValue = Field(
        description="Text that tells senders apart, like `{{ event.source }}`; empty where the expression fails or the "
        "message cannot be decoded."
    )
    max_in_flight: Integer | None = Field(
        None,
        ge=1,
        description="Records of one value at work; null: a tenth of `max_in_flight`, at most half of `concurrency`.",
    )
    max_in_flight_bytes: Size | None = Field(
        None, description="Bytes of one value at work; null: a tenth of `max_in_flight_bytes`."
    )
    max_waiting: Integer = Field(
        10_000,
        ge=1,
        description="Records, of all values, that wait for others of their value; the source reads no further then.",
    )
    max_waiting_bytes: Size = Field(67108864, description="Bytes of the records that wait; the same.")
    max_values: Integer = Field(
        1000, ge=1, le=100_000, description="Values with bounds of their own; all further ones share those of one."
    )


def _per(value: Any) -> Any:
    return {"value": value} if isinstance(value, str) else value


class LimitsConfig(Model):
    """Limits of memory and time. At a limit of messages in flight the partition pauses; no message is dropped."""

    max_payload: Size = Field(1048576, description="Largest message body; a larger one is dead-lettered.")
    max_depth: Integer = Field(100, ge=1, le=1000, description="Deepest nesting of a payload.")
    schema_cost: Duration = Field(
        0.1,
        gt=0,
        le=60,
        description=(
            "Estimated processor time of the patterns of a JSON Schema that look around or refer back; a payload that "
            "may need more is dead-lettered. More than the default may stall the daemon."
        ),
    )
    expression_cost: Duration = Field(
        0.15,
        gt=0,
        le=60,
        description=(
            "Estimated processor time, with 2 ns for a byte of memory, of the expressions of one message; a message "
            "that may need more is dead-lettered. More than the default may stall the daemon."
        ),
    )
    max_command_bytes: Size = Field(
        16777216,
        ge=1,
        description="Bytes of input and data in all commands of one message; a message that leads to more is "
        "dead-lettered.",
    )
    max_commands: Integer = Field(
        1000, ge=1, le=10_000, description="Most commands of one `for_each`; a longer list is dead-lettered."
    )
    max_values: Integer = Field(
        50_000,
        ge=1,
        description="Most values in a payload, at any depth; more are dead-lettered as `too_many_values`.",
    )
    max_decoded: Size = Field(
        16777216,
        description="Largest decoded Avro or Protobuf payload; more is dead-lettered as `decoded_too_large`.",
    )
    max_in_flight: Integer = Field(1000, ge=1, description="Records received and not settled.")
    max_in_flight_bytes: Size = Field(67108864, description="Bytes received and not settled.")
    concurrency: Integer = Field(64, ge=1, le=10_000, description="Commands executed at once.")
    max_key_backlog: Integer = Field(100, ge=1, description="Records that may wait behind a retrying key.")
    max_gap: Integer = Field(10_000, ge=1, description="Records above the committed prefix of one partition.")
    dead_letter_limit: Integer = Field(
        100, ge=1, description="Dead letters a minute and route; beyond it the route writes one per pause."
    )
    per: Annotated[SourcePerConfig | None, BeforeValidator(_per)] = Field(
        None,
        description="Bounds for each value of a template, as for each tenant; a template is short for its `value`.",
    )

    @model_validator(mode="after")
    def _below_the_whole(self) -> LimitsConfig:
        for name in ("max_in_flight", "max_in_flight_bytes"):
            share, whole = getattr(self.per, name, None), getattr(self, name)
            if share is not None and share > whole:
                raise ValueError(f"per.{name} is above {name}: one value could take all of the source")
        return self


class QuarantineConfig(Model):
    """Quarantine: a key whose message fails waits on an engine for a person instead of being dead-lettered."""

    engine: Name | None = Field(None, description="Engine that keeps them; null: the one of the source's first route.")
    max_messages: Integer = Field(1000, ge=1, description="Messages held per key; more are dead-lettered.")
    max_bytes: Size = Field(524288, description="Bytes held per key, as JSON; more are dead-lettered.")
    poll: Duration = Field(2.0, gt=0, description="How often releases are looked for while a key is held.")


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


class KafkaSourceConfig(Model):
    """Options of Kafka sources."""

    pattern: Annotated[str, AfterValidator(_check_pattern)] | None = Field(
        None, min_length=1, description="Regular expression at the start of topic names, beside which `topics` is `[]`."
    )
    instance_id: Topic | None = Field(
        None, description="Static membership: a name, of this process alone, that keeps its partitions over a restart."
    )
    isolation: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="Whether records of unfinished transactions are read."
    )
    on_out_of_range: Literal["stop", "earliest", "latest"] = Field(
        "stop", description="When the group's position is gone: stop the partition, unready, or go on there and count."
    )
    amqp_headers: bool | None = Field(
        None,
        description=(
            "Decode header values in the encoding of AMQP, as Azure Event Hubs hands them out when the sender spoke "
            "AMQP; null: on Event Hubs."
        ),
    )


class SourceConfig(Model):
    """One stream of messages, and the way it is read."""

    broker: Name = Field(description="Name of the broker, from `brokers`.")
    topics: tuple[Topic, ...] = Field((), description="Topics to read, on the local broker and Kafka.")
    queue: Entity | None = Field(None, description="Queue to read, on Service Bus.")
    topic: Entity | None = Field(None, description="Topic whose `subscription` is read, on Service Bus.")
    subscription: Annotated[str, AfterValidator(check_subscription)] | None = Field(
        None, description="Subscription to read, on Service Bus."
    )
    sub_queue: Literal["dead_letter", "transfer_dead_letter"] | None = Field(
        None, description="Read the dead letters of the queue or subscription instead."
    )
    sessions: Sessions = Field(
        None, description="Whether the queue or subscription has sessions: `true`, or how they are read."
    )
    group: Topic = Field("bridge", description="Consumer group.")
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a new group begins.")
    codec: Literal["cloudevents", "json", "text", "bytes", "avro", "protobuf"] = Field(
        "cloudevents", description="Format of the messages; `cloudevents` takes the structured and the binary form."
    )
    registry: Name | None = Field(
        None, description="For `avro` and `protobuf`: name of the registry, from `registries`; null: the only one."
    )
    attributes: dict[Annotated[str, AfterValidator(_check_attribute)], Expression] = Field(
        default_factory=dict, description="Event attributes from `headers`, `key`, `topic` and `payload`."
    )
    identity: Template | None = Field(None, description="Identity of a message, for senders that reuse ids.")
    ordering: Annotated[Template, AfterValidator(_check_ordering)] = Field(
        "key", description="What is kept in order: `key`, `partition`, `none`, or a template with `{{ }}`."
    )
    ordering_domain: Name | None = Field(
        None, description="Sources of the same domain keep the order of equal keys among each other, in one process."
    )
    schema_file: str | None = Field(None, alias="schema", description="JSON Schema file for messages of this source.")
    no_match: Literal["dead_letter", "ignore"] = Field(description="What happens when no rule matches.")
    dead_letter: Annotated[str, AfterValidator(_check_dead_letter)] | None = Field(
        None,
        description=(
            "Topic or queue for dead letters, `{topic}` is the origin's name; null: `{topic}.dlq`, "
            "on Service Bus the entity's own."
        ),
    )
    on_unreadable: OnUnreadable | None = Field(
        None,
        description=(
            "Messages that cannot be parsed: `dead_letter`, `stop_partition` (not on Service Bus) or `skip`, which "
            "completes them as ignored. null: `dead_letter`; but `stop_partition` where order or quarantine goes by a "
            "key that cannot be read."
        ),
    )
    trusted: Literal["replay"] | None = Field(None, description="`replay`: believe `bridge.*` headers of messages.")
    retention: Duration | None = Field(None, description="How long the topic keeps messages, for `bridge check`.")
    retry: RetryConfig = Field(RetryConfig(), description="Retries in memory.")
    limits: LimitsConfig = Field(LimitsConfig(), description="What bounds memory and time.")
    quarantine: QuarantineConfig | None = Field(
        None, description="Hold a poisoned key and its later messages instead of dead-lettering; `{}` for the defaults."
    )
    kafka: KafkaSourceConfig | None = Field(None, description="What only a Kafka source has.")
    servicebus: ServiceBusSourceConfig | None = Field(None, description="What only a Service Bus source has.")

    @property
    def origins(self) -> tuple[str, ...]:
        """Topics or entity paths that are read, as positions of messages name them."""
        if self.queue is None and self.topic is None:
            return self.topics
        path = self.queue if self.queue is not None else f"{self.topic}/Subscriptions/{self.subscription}"
        return (path + SUB_QUEUES.get(self.sub_queue or "", ""),)

    @property
    def entrance(self) -> str | None:
        """Topic or queue to publish to for this source to receive a message; None for sub-queues, which accept none."""
        if self.sub_queue is not None:
            return None
        return self.queue or self.topic or next(iter(self.topics), None)
