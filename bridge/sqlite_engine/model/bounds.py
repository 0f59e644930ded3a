"""Limits of an engine's inputs: sizes, and ids that clients choose.

The engine's own limits keep a page of a listing within a client's message; the others are the scheduler's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.reply import invalid_argument

MAX_NAME = 1024
"""Longest name of an orchestration, activity, event or operation, and longest version, in characters."""

MAX_TAGS = 64 * 1024
"""Total size of the tags of one instance or activity, in bytes."""

MAX_CUSTOM_STATUS = 1024 * 1024
"""Largest custom status, in bytes."""

MAX_EVENT = 3 * 1024 * 1024
"""Largest data of an event, in bytes. Workers accept messages of 4 MiB."""


_REFUSAL = re.compile(
    r"The call has (an? )?[a-z' ]{1,40} (of \d+ (characters|bytes); at most \d+ are allowed"
    r"|with other characters than printable ASCII, which is refused)(, the scheduler's limit, by `strict`)?"
)


class BeyondBound(Exception):
    """Violation of a limit, as a predicate that completes the sentence "The call …" or "The answer …"."""


def is_bound_refusal(details: str) -> bool:
    """True for the text with which an engine refuses a call beyond a limit. Such a text quotes no payload."""
    return _REFUSAL.fullmatch(details) is not None


def check_name(what: str, name: str) -> None:
    """Check the length of a name or version. Raises: BeyondBound."""
    if len(name) > MAX_NAME:
        raise BeyondBound(f"has {what} of {len(name)} characters; at most {MAX_NAME} are allowed")


def check_tags(tags: Mapping[str, str]) -> None:
    """Check the total size of tags. Raises: BeyondBound."""
    if tags:
        size = sum(_size(key) + _size(value) for key, value in tags.items())
        if size > MAX_TAGS:
            raise BeyondBound(f"has tags of {size} bytes; at most {MAX_TAGS} are allowed")


def check_custom_status(status: str) -> None:
    """Check the size of a custom status. Raises: BeyondBound."""
    if len(status) * 4 > MAX_CUSTOM_STATUS and (size := _size(status)) > MAX_CUSTOM_STATUS:
        raise BeyondBound(f"has a custom status of {size} bytes; at most {MAX_CUSTOM_STATUS} are allowed")


@dataclass(frozen=True, slots=True)
class Limits:
    """Configurable limits of an engine. setting: text that is appended to each violation, to name the setting."""

    id_characters: int = 1024
    printable_ids: bool = False
    """Ids consist of printable ASCII characters only."""
    payload_bytes: int | None = None
    event_bytes: int = MAX_EVENT
    """Largest data of an event, in bytes."""
    setting: str = ""

    def check_id(self, what: str, instance_id: str) -> None:
        """Check an id's length and characters. Raises: BeyondBound."""
        if len(instance_id) > self.id_characters:
            raise BeyondBound(
                f"has {what} of {len(instance_id)} characters; at most {self.id_characters} are allowed{self.setting}"
            )
        if self.printable_ids and not (instance_id.isascii() and instance_id.isprintable()):
            raise BeyondBound(f"has {what} with other characters than printable ASCII, which is refused{self.setting}")

    def check_payload(self, what: str, payload: str) -> None:
        """Check the size of a payload. Raises: BeyondBound."""
        if self.payload_bytes is not None:
            self._check_size(what, payload, self.payload_bytes)

    def check_event(self, data: str, what: str = "an event's data") -> None:
        """Check the data of an event, or a reason, which becomes an event. Raises: BeyondBound."""
        self._check_size(what, data, self.event_bytes)

    def _check_size(self, what: str, payload: str, bound: int) -> None:
        if len(payload) * 4 > bound and (size := _size(payload)) > bound:
            raise BeyondBound(f"has {what} of {size} bytes; at most {bound} are allowed{self.setting}")

    def check_turn(self, response: pb.OrchestratorResponse) -> None:
        """Check the payloads, events and entity ids in an orchestrator's response. Raises: BeyondBound.

        Ids of sub-orchestrations are checked when they start.
        """
        for action in response.actions:
            kind = action.WhichOneof("orchestratorActionType")
            if kind == "sendEvent":
                self.check_event(action.sendEvent.data.value)
            elif kind == "sendEntityMessage":
                message = action.sendEntityMessage
                for target in (message.entityOperationSignaled, message.entityOperationCalled):
                    self.check_id("an entity's id", target.targetInstanceId.value)
                for each in message.entityLockRequested.lockSet:
                    self.check_id("an entity's id", each)
        if self.payload_bytes is None:
            return
        for action in response.actions:
            for what, payload in _payloads(action):
                self.check_payload(what, payload)


SCHEDULERS = Limits(
    id_characters=100,
    printable_ids=True,
    payload_bytes=1024 * 1024,
    event_bytes=1024 * 1024,
    setting=", the scheduler's limit, by `strict`",
)
"""Documented limits of the Durable Task Scheduler."""


def _payloads(action: pb.OrchestratorAction) -> Iterator[tuple[str, str]]:
    yield "an activity's input", action.scheduleTask.input.value
    yield "a sub-orchestration's input", action.createSubOrchestration.input.value
    completion = action.completeOrchestration
    anew = completion.orchestrationStatus == pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW
    yield "an orchestration's input" if anew else "an orchestration's output", completion.result.value


def _size(value: str) -> int:
    return len(value.encode())


def check_id(instance_id: str, limits: Limits) -> str:
    """Check the id of a new orchestration. Raises: Rejection."""
    if not instance_id:
        raise invalid_argument("The instance id is empty")
    try:
        limits.check_id("an instance id", instance_id)
    except BeyondBound as error:
        raise invalid_argument(f"The call {error}") from error
    if instance_id.startswith("@"):
        raise invalid_argument("Instance ids that begin with @ belong to entities")
    if "\0" in instance_id:
        raise invalid_argument("The instance id has a NUL character")
    return instance_id


def check_execution(execution: str) -> None:
    """Check an execution id. An empty one stands for a new id. Raises: Rejection."""
    if len(execution) > MAX_NAME:
        raise invalid_argument(
            f"The call has an execution id of {len(execution)} characters; at most {MAX_NAME} are allowed"
        )
    if any(character < " " for character in execution):
        raise invalid_argument("The execution id has a control character")
