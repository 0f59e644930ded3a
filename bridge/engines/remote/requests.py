"""Requests of the two most frequent calls, as the SDK's client makes them at ten times the cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DEFAULT_DATA_CONVERTER
from google.protobuf.timestamp_pb2 import Timestamp

from bridge.engines.payloads.large_payloads import Serialized

_ONLY_JSON = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def start_request(
    orchestration: str,
    *,
    input: Any,  # noqa: A002 -- the SDK's name
    instance_id: str | None,
    start_at: datetime | None,
    reuse_id_policy: pb.OrchestrationIdReusePolicy | None,
    tags: Mapping[str, str] | None,
    version: str | None,
) -> pb.CreateInstanceRequest:
    """Request to start an instance; without an id it gets a random one. Raises: TypeError, ValueError."""
    request = pb.CreateInstanceRequest(
        instanceId=instance_id or uuid4().hex, name=orchestration, orchestrationIdReusePolicy=reuse_id_policy, tags=tags
    )
    if (text := to_json(input)) is not None:
        request.input.value = text
    if version:
        request.version.value = version
    if start_at is not None:
        request.scheduledStartTimestamp.CopyFrom(to_timestamp(start_at))
    return request


def event_request(instance_id: str, name: str, data: Any) -> pb.RaiseEventRequest:
    """Request to raise an event. Raises: TypeError, ValueError."""
    request = pb.RaiseEventRequest(instanceId=instance_id, name=name)
    if (text := to_json(data)) is not None:
        request.input.value = text
    return request


def to_json(value: Any) -> str | None:
    """JSON text that means the same as the SDK's, without white space; None for None.

    Raises: TypeError, ValueError, RecursionError.
    """
    if value is None:
        return None
    if type(value) is Serialized:
        return value.text
    try:
        encoded = orjson.dumps(value, option=_ONLY_JSON)
    except TypeError:
        # Integers of more than 64 bits, lone surrogates, keys that are not strings, classes with a form of their own
        return DEFAULT_DATA_CONVERTER.serialize(value)
    # The number NaN has no form in JSON: the SDK writes its name, orjson null
    return DEFAULT_DATA_CONVERTER.serialize(value) if b"null" in encoded else encoded.decode()


def to_timestamp(time: datetime) -> Timestamp:
    """Time of the protocol. A time without a zone is in UTC."""
    found = Timestamp()
    found.FromDatetime(time)
    return found
