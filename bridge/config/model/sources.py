"""Configuration of sources, which consume messages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bridge.config.model.claims import ClaimCheckConfig
from bridge.config.model.codecs import SourceCodec
from bridge.config.model.routes import FunctionName, MatchKey, MatchValue
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
from bridge.core.settlement import RetryPolicy


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
        raise ValueError("the name of an attribute consists of lower-case letters and digits, as in CloudEvents")
    return value


ATTRIBUTES = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
"""Attributes of CloudEvents 1.0. A source's `attributes` may also set extensions."""


DEAD_LETTER_TOPIC = "{topic}.dlq"
"""Default dead-letter topic, for brokers without a dead-letter place of their own."""

SUB_QUEUES = {"dead_letter": "/$DeadLetterQueue", "transfer_dead_letter": "/$Transfer/$DeadLetterQueue"}
"""Suffix that a sub-queue of Service Bus adds to the path of its entity."""


OnUnreadable = Literal["dead_letter", "stop_partition", "skip"]
"""Treatment of messages that the broker's client library cannot parse."""


_RETRY = RetryPolicy()


class RetryConfig(Model):
    """Retries in memory, per ordering key. Outages do not count as retries: the source is held."""

    initial: Duration = Field(_RETRY.initial, description="Wait after the first failure.")
    multiplier: Number = Field(_RETRY.multiplier, ge=1.0, le=10.0, description="Factor between two waits.")
    max_delay: Duration = Field(_RETRY.max_delay, description="Longest wait between two attempts.")
    in_memory: Duration = Field(
        _RETRY.in_memory,
        description="Longest time that a failing message blocks its key before it is dead-lettered.",
    )
    bug_attempts: Integer = Field(
        _RETRY.bug_attempts, ge=1, description="Attempts of a message that fails with an unexpected exception."
    )


class SourcePerConfig(Model):
    """Limits of a source per value of a template. Messages beyond them wait; messages with other values continue."""

    value: PerValue = Field(
        description="Text that distinguishes senders, like `{{ event.source }}`; empty if the expression "
        "fails or the message cannot be decoded."
    )
    max_in_flight: Integer | None = Field(
        None,
        ge=1,
        description="Records of one value in progress; null: a tenth of `max_in_flight`, at most half of "
        "`concurrency`.",
    )
    max_in_flight_bytes: Size | None = Field(
        None, description="Bytes of the records of one value in progress; null: a tenth of `max_in_flight_bytes`."
    )
    max_waiting: Integer = Field(
        10_000,
        ge=1,
        description="Records of all values that wait for others of their value; at this number the source "
        "stops reading.",
    )
    max_waiting_bytes: Size = Field(
        67108864,
        description="Bytes of the records that wait for others of their value; at this number the source "
        "stops reading.",
    )
    max_values: Integer = Field(
        1000, ge=1, le=100_000, description="Number of values with their own limits; all others share one."
    )


def _per(value: Any) -> Any:
    return {"value": value} if isinstance(value, str) else value


class LimitsConfig(Model):
    """Limits of memory and time. At a limit of messages in flight the partition pauses; no message is dropped."""

    max_payload: Size = Field(1048576, description="Largest message body; larger ones are dead-lettered.")
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
            "Estimated processor time of the expressions of one message, including 2 ns for each byte "
            "of memory; a message that may need more is dead-lettered. More than the default may "
            "stall the daemon."
        ),
    )
    max_command_bytes: Size = Field(
        16777216,
        ge=1,
        description="Bytes of input and data in all commands of one message; with more, the message is dead-lettered.",
    )
    max_commands: Integer = Field(
        1000, ge=1, le=10_000, description="Most commands of one `for_each`; a longer list is dead-lettered."
    )
    max_values: Integer = Field(
        50_000,
        ge=1,
        description="Values in a payload, at any depth; with more, the message is dead-lettered as `too_many_values`.",
    )
    max_decoded: Size = Field(
        16777216,
        description="Largest decoded Avro or Protobuf payload; larger ones are dead-lettered as `decoded_too_large`.",
    )
    max_in_flight: Integer = Field(1000, ge=1, description="Records that are received and not settled.")
    max_in_flight_bytes: Size = Field(67108864, description="Bytes of records that are received and not settled.")
    concurrency: Integer = Field(64, ge=1, le=10_000, description="Commands in execution at once.")
    max_key_backlog: Integer = Field(100, ge=1, description="Records that may wait behind a retrying key.")
    max_gap: Integer = Field(
        10_000,
        ge=1,
        description="Records of one partition that are received since the last offset that can be committed.",
    )
    dead_letter_limit: Integer = Field(
        100, ge=1, description="Dead letters per minute and route; beyond this limit the route writes one per pause."
    )
    max_replays: Integer = Field(
        5, ge=1, description="Failed replays of a message; a further one needs `bridge dlq replay --force`."
    )
    max_queued_replays: Integer = Field(
        1000, ge=1, description="Dead letters of one partition that wait for their replay; a job waits with more."
    )
    max_queued_replay_bytes: Size = Field(
        1048576, description="Bytes of dead letters of one partition that wait for their replay, as JSON."
    )
    per: Annotated[SourcePerConfig | None, BeforeValidator(_per)] = Field(
        None,
        description="Limits for each value of a template, such as each tenant; a template alone is short for "
        "its `value`.",
    )

    @property
    def expression_nanoseconds(self) -> float:
        """`expression_cost` in the unit in which expressions count it."""
        return self.expression_cost * 1e9

    @model_validator(mode="after")
    def _below_the_whole(self) -> LimitsConfig:
        for name in ("max_in_flight", "max_in_flight_bytes"):
            share, whole = getattr(self.per, name, None), getattr(self, name)
            if share is not None and share > whole:
                raise ValueError(f"`per.{name}` exceeds `{name}`: one value could take the whole limit of the source")
        return self


class QuarantineConfig(Model):
    """Quarantine: a key whose message fails waits on an engine for a person instead of being dead-lettered."""

    engine: Name | None = Field(
        None, description="Engine that stores the quarantined messages; null: the engine of the source's first route."
    )
    max_messages: Integer = Field(
        1000, ge=1, description="Messages per quarantined key; further ones are dead-lettered."
    )
    max_bytes: Size = Field(
        524288, description="Bytes of messages per quarantined key, as JSON; further messages are dead-lettered."
    )
    poll: Duration = Field(2.0, gt=0, description="Time between two checks for releases while a key is quarantined.")


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


class KafkaSourceConfig(Model):
    """Options of Kafka sources."""

    pattern: Annotated[str, AfterValidator(_check_pattern)] | None = Field(
        None,
        min_length=1,
        description="Regular expression that matches the start of topic names; write `topics: []` with it.",
    )
    instance_id: Topic | None = Field(
        None, description="Name for static membership, unique to this process: it keeps its partitions over a restart."
    )
    isolation: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="`read_uncommitted` also reads records of unfinished transactions."
    )
    on_out_of_range: Literal["stop", "earliest", "latest"] = Field(
        "stop",
        description="Treatment of a group position that no longer exists: stop the partition and become "
        "unready, or continue at that end of the log and count the records.",
    )
    amqp_headers: bool | None = Field(
        None,
        description=(
            "Decode header values as AMQP, which Azure Event Hubs returns for senders that use AMQP; "
            "null: only on Event Hubs."
        ),
    )


class UpcastConfig(Model):
    """Conversion of the payloads of one older version into the form that the rules read."""

    match: dict[MatchKey, MatchValue] = Field(
        min_length=1,
        description="Equalities that name the version, as in a route: `dataschema`, `extensions.recordname`, "
        "`extensions.schemaid`, `headers.NAME`, `payload.PATH`, ...",
    )
    data: Expression | None = Field(
        None, description="Expression for the new payload, over `event`, `payload` and `vars`."
    )
    map: FunctionName | None = Field(
        None, description="`module:function` that takes the envelope and returns the new payload."
    )
    dataschema: str | None = Field(
        None, min_length=1, description="`dataschema` of the converted message, which later upcasts and rules match."
    )

    @model_validator(mode="after")
    def _one_conversion(self) -> UpcastConfig:
        if (self.data is None) == (self.map is None):
            raise ValueError("write either `data` or `map`")
        return self


class SourceConfig(Model):
    """One stream of messages, and the way it is read."""

    broker: Name = Field(description="Name of a broker of `brokers`.")
    topics: tuple[Topic, ...] = Field((), description="Topics to read, on the local broker and Kafka.")
    queue: Entity | None = Field(None, description="Queue to read, on Service Bus.")
    topic: Entity | None = Field(None, description="Topic whose `subscription` is read, on Service Bus.")
    subscription: Annotated[str, AfterValidator(check_subscription)] | None = Field(
        None, description="Subscription to read, on Service Bus."
    )
    sub_queue: Literal["dead_letter", "transfer_dead_letter"] | None = Field(
        None, description="Sub-queue of the queue or subscription to read instead."
    )
    sessions: Sessions = Field(None, description="Sessions of the queue or subscription: `true`, or their settings.")
    group: Topic = Field("bridge", description="Consumer group.")
    start: Literal["earliest", "latest"] = Field("earliest", description="Position of a new group.")
    codec: SourceCodec = Field(
        "cloudevents", description="Format of the messages; `cloudevents` accepts the structured and the binary form."
    )
    registry: Name | None = Field(
        None, description="Name of a registry of `registries`, for `avro` and `protobuf`; null: the only one."
    )
    attributes: dict[Annotated[str, AfterValidator(_check_attribute)], Expression] = Field(
        default_factory=dict, description="Event attributes, computed from `headers`, `key`, `topic` and `payload`."
    )
    identity: Template | None = Field(None, description="Identity of a message, for senders that reuse ids.")
    ordering: Annotated[Template, AfterValidator(_check_ordering)] = Field(
        "key", description="Unit of ordering: `key`, `partition`, `none`, or a template with `{{ }}`."
    )
    ordering_domain: Name | None = Field(
        None, description="Sources of one domain share the order of equal keys, within one process."
    )
    claim_check: ClaimCheckConfig | None = Field(
        None, description="Payloads that lie elsewhere, with a reference in the message; null: none."
    )
    schema_file: str | None = Field(
        None,
        alias="schema",
        description="JSON Schema file for messages of this source. With `codec: avro`, an Avro schema (`.avsc`), "
        "which validates nothing: `bridge check` compares its types with the rules.",
    )
    upcast: tuple[UpcastConfig, ...] = Field(
        (),
        description="Conversions of older versions of a payload, tried in this order before `schema` and the rules; "
        "each sees the result of those before it.",
    )
    no_match: Literal["dead_letter", "ignore"] = Field(description="Treatment of a message that no rule matches.")
    dead_letter: Annotated[str, AfterValidator(_check_dead_letter)] | None = Field(
        None,
        description=(
            "Topic or queue for dead letters; `{topic}` is the name of the origin. null: "
            "`{topic}.dlq`; on Service Bus the dead-letter queue of the entity."
        ),
    )
    on_unreadable: OnUnreadable | None = Field(
        None,
        description=(
            "Treatment of messages that cannot be parsed: `dead_letter`, `stop_partition` (not on "
            "Service Bus) or `skip`, which completes them as ignored. null: `dead_letter`, or "
            "`stop_partition` if order or quarantine depends on a key that cannot be read."
        ),
    )
    trusted: Literal["replay"] | None = Field(None, description="`replay` trusts the `bridge.*` headers of messages.")
    retention: Duration | None = Field(None, description="Retention of the topic, which `bridge check` compares.")
    retry: RetryConfig = Field(RetryConfig(), description="Retries in memory.")
    limits: LimitsConfig = Field(LimitsConfig(), description="Limits of memory and time.")
    quarantine: QuarantineConfig | None = Field(
        None, description="Quarantine for keys of messages that fail, instead of dead-lettering; `{}` for the defaults."
    )
    kafka: KafkaSourceConfig | None = Field(None, description="Settings of Kafka sources.")
    servicebus: ServiceBusSourceConfig | None = Field(None, description="Settings of Service Bus sources.")

    @model_validator(mode="after")
    def _check_claims(self) -> SourceConfig:
        if self.claim_check is not None and ("{{" in self.ordering or self.limits.per is not None):
            raise ValueError(
                "`claim_check` needs `ordering: key`, `partition` or `none`, and no `limits.per`: payloads are fetched "
                "after the order of a message is known"
            )
        return self

    @property
    def only_types(self) -> bool:
        """True if the schema is an Avro schema, which validates nothing."""
        return self.codec == "avro" and (self.schema_file or "").endswith(".avsc")

    @property
    def is_queue(self) -> bool:
        """True if the source reads a queue or subscription of Service Bus."""
        return self.queue is not None or self.topic is not None

    @property
    def origins(self) -> tuple[str, ...]:
        """Topics or entity paths that are read, as positions of messages name them."""
        if not self.is_queue:
            return self.topics
        path = self.queue if self.queue is not None else f"{self.topic}/Subscriptions/{self.subscription}"
        return (path + SUB_QUEUES.get(self.sub_queue or "", ""),)

    @property
    def entrance(self) -> str | None:
        """Topic or queue to publish to for this source to receive a message; None for sub-queues, which accept none."""
        if self.sub_queue is not None:
            return None
        return self.queue or self.topic or next(iter(self.topics), None)
