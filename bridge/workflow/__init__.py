"""Public API for workflows. Every name works inside a plain Durable Task orchestrator."""

from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.origin import MessageOrigin
from bridge.workflow.converter import DataConverter
from bridge.workflow.entity import Entity
from bridge.workflow.inbox import Inbox, MessageTimedOut, Received, continue_as_new, wait_for_message
from bridge.workflow.messages import message_aware, origin, trace_of
from bridge.workflow.outcome import FailedCompensation, SagaAborted, SagaOutcome, SagaStatus, StepFailed, StepState
from bridge.workflow.progress import acknowledge_cancel
from bridge.workflow.publishing import RequestTimedOut, publish, request
from bridge.workflow.saga import Branch, Saga, Scope
from bridge.workflow.step import Child, Command, CompensationInput, Step, StepInput

Origin = MessageOrigin
"""Former name of `MessageOrigin`."""

__all__ = [
    "PUBLISH_ACTIVITY",
    "Branch",
    "Child",
    "Command",
    "CompensationInput",
    "DataConverter",
    "Entity",
    "FailedCompensation",
    "Inbox",
    "MessageOrigin",
    "MessageTimedOut",
    "Origin",
    "Received",
    "RequestTimedOut",
    "Saga",
    "SagaAborted",
    "SagaOutcome",
    "SagaStatus",
    "Scope",
    "Step",
    "StepFailed",
    "StepInput",
    "StepState",
    "acknowledge_cancel",
    "continue_as_new",
    "message_aware",
    "origin",
    "publish",
    "request",
    "trace_of",
    "wait_for_message",
]
