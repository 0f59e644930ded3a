"""Brokers and publish targets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bridge.config.types import Duration, Integer, Model, Name, Topic


class LocalBrokerConfig(Model):
    """A durable log in one SQLite file, shared by the processes of one machine."""

    type: Literal["local"] = Field(description="The kind of broker.")
    path: str = Field(".bridge/broker", description="Directory of the log, relative to the config file.")
    partitions: Integer = Field(4, ge=1, le=1024, description="Partitions of a topic when it is created.")
    retention: Duration | None = Field(None, description="How long records are kept; null: for ever.")
    commit_interval: Duration = Field(0.05, description="How long completed records may wait to be committed together.")


BrokerConfig = LocalBrokerConfig
"""Every kind of broker; becomes a union discriminated on `type` when there is more than one."""


class TargetConfig(Model):
    """A logical destination that activities publish to."""

    broker: Name = Field(description="Name of the broker, from `brokers`.")
    topic: Topic = Field(description="Topic to publish to.")
    codec: Literal["cloudevents", "cloudevents-binary", "json", "text", "bytes"] = Field(
        "cloudevents", description="Format of what is published; `cloudevents` is the structured form."
    )
    source: str = Field("durable-bridge", description="CloudEvents `source` of what is published here.")
    timeout: Duration = Field(
        30.0, gt=0, description="Deadline of one publish; then the activity fails and is retried."
    )
