"""Items of the channel: work for a worker process, and its results. Pure.

Work carries the token of its lease, in front of its protobuf message. Results are protobuf messages with their token.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, cast

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.processes.framing import BrokenFrame
from bridge.sqlite_engine.hub.work_items import TurnRequest, TurnResponse
from bridge.sqlite_engine.model.wire import repeated


class ItemKind(IntEnum):
    """Kinds of items."""

    SETUP = 1
    """To the process, first: its settings, as JSON. The same in all versions."""
    FAILED = 2
    """From the process: the reason for which it cannot start, as JSON. The same in all versions."""
    TURN = 3
    """Turn, behind the token of the last one if the process has the orchestration in memory. It then carries only what
    the history has gained since."""
    ACTIVITY = 4
    ENTITY = 5
    FORGET = 6
    """To the process: drop an orchestration from memory, by instance id."""
    STOP = 7
    """To the process: return what has not begun, finish the rest, and end."""
    READY = 8
    """From the process: the workflows are imported."""
    TURN_DONE = 9
    ACTIVITY_DONE = 10
    ENTITY_DONE = 11
    RETURNED = 12
    """From the process: a token of work that it could not run."""
    REPORT = 13
    """From the process: figures since its last report, as JSON."""
    ATTACH = 14
    """From a process that the daemon has not started, first: what it knows and keeps, as JSON. The same in all
    versions. A request for work follows."""
    REQUEST = 15
    """From such a process: its GetWorkItemsRequest."""
    LEAVING = 16
    """From such a process: it takes no more work, and sends the results of what runs."""
    RECALL = 17
    """To the process: return the activities that have not begun, and go on. For processes that know it."""
    RECALLED = 18
    """From the process: their tokens, with line breaks between them."""


_TURN = struct.Struct("<BII")
_past_events = repeated(pb.OrchestratorRequest, "pastEvents")
_new_events = repeated(pb.OrchestratorRequest, "newEvents")
_actions = repeated(pb.OrchestratorResponse, "actions")


def json_body(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse the body of an item. Raises: BrokenFrame."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise BrokenFrame("an item that is not JSON") from error
    if not isinstance(value, dict):
        raise BrokenFrame("an item that is no JSON object")
    return value


def work_body(token: str, message: Any) -> bytes:
    """Body of a work item: token and protobuf message."""
    return _text(token) + cast(bytes, message.SerializeToString())


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes((len(data),)) + data


def split_work(body: bytes) -> tuple[str, bytes]:
    """Token and serialized message of a work item."""
    end = 1 + body[0]
    return body[1:end].decode(), body[end:]


def turn_body(request: TurnRequest, since: int, after: str) -> bytes:
    """Body of a turn whose process knows the first `since` events of the history.

    after: token of the turn at whose end the process has the orchestration in memory; empty when it needs the history.
    """
    message = pb.OrchestratorRequest(instanceId=request.instanceId)
    if request.HasField("orchestrationTraceContext"):
        message.orchestrationTraceContext.CopyFrom(request.orchestrationTraceContext)
    past = request.pastEvents[since:] if since else request.pastEvents
    head = _text(after) + work_body(request.completionToken, message)
    return head + _past_events(past) + _new_events(request.newEvents)


def turn_done(response: TurnResponse | pb.OrchestratorResponse, *, is_kept: bool) -> bytes:
    """Body of the response to a turn. is_kept: the process has the orchestration in memory."""
    if not isinstance(response, TurnResponse):
        return _TURN.pack(2 * is_kept, 0, 0) + cast(bytes, response.SerializeToString())
    message = pb.OrchestratorResponse(instanceId=response.instanceId, completionToken=response.completionToken)
    if response.customStatus is not None:
        message.customStatus.CopyFrom(response.customStatus)
    head: bytes = _TURN.pack(1 + 2 * is_kept, *response.unread) + message.SerializeToString()
    return head + _actions(response.actions)


def parse_turn_done(body: bytes) -> tuple[TurnResponse | pb.OrchestratorResponse, bool]:
    """Response to a turn, and True when the process has the orchestration in memory. Raises: DecodeError."""
    flags, number, size = _TURN.unpack_from(body)
    message = pb.OrchestratorResponse.FromString(body[_TURN.size :])
    if not flags & 1:
        return message, bool(flags & 2)
    status = message.customStatus if message.HasField("customStatus") else None
    response = TurnResponse(
        message.instanceId, list(message.actions), message.completionToken, status, None, (number, size)
    )
    return response, bool(flags & 2)
