"""Recorded history as a file in a versioned format of the bridge, for replay tests. Any engine can provide it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import json_format

from bridge.engines.client import EngineClient

FORMAT = "durable-bridge.history"
VERSION = 1


class UnreadableRecording(ValueError):
    """Raised for a text that is not a recording, or is one of a later version."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One execution of an orchestration.

    orchestration: registered name.
    events: history events, oldest first.
    """

    instance_id: str
    orchestration: str
    events: tuple[pb.HistoryEvent, ...]

    @classmethod
    def of(cls, instance_id: str, events: Sequence[pb.HistoryEvent]) -> Self:
        """Create a recording from events. Raises: UnreadableRecording when the history has no start."""
        started = next((event.executionStarted for event in events if event.HasField("executionStarted")), None)
        if started is None:
            raise UnreadableRecording(f"the history of {instance_id!r} does not name the started orchestration")
        return cls(instance_id, started.name, tuple(events))

    def to_json(self) -> dict[str, Any]:
        """Convert the recording to a document for `json.dumps`.

        Members are format, version, instance id, orchestration, and the events in protobuf's JSON.
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "instance_id": self.instance_id,
            "orchestration": self.orchestration,
            "events": [json_format.MessageToDict(event) for event in self.events],
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a document of `to_json`. Raises: UnreadableRecording."""
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise UnreadableRecording(f"its format is {document['format']!r}, not {FORMAT!r}")
            if document["version"] > VERSION:
                raise UnreadableRecording(f"its version is {document['version']}; this bridge reads up to {VERSION}")
            events = [json_format.ParseDict(event, pb.HistoryEvent()) for event in document["events"]]
        except UnreadableRecording:
            raise
        except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
            raise UnreadableRecording(f"the file is not a recorded history: {error}") from error
        return cls(document["instance_id"], document["orchestration"], tuple(events))


async def record(client: EngineClient, instance_id: str) -> Recording:
    """Record the history of an instance's current execution. Raises: UnreadableRecording; EngineError."""
    return Recording.of(instance_id, await client.get_protocol_history(instance_id))
