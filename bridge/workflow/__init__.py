"""Public API for workflows. Every name works inside a plain Durable Task orchestrator."""

from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.origin import MessageOrigin
from bridge.workflow.cancelling import acknowledge_cancel
from bridge.workflow.converter import DataConverter
from bridge.workflow.entity import Entity
from bridge.workflow.inbox import Inbox, MessageTimedOut, Received, continue_as_new, wait_for_message
from bridge.workflow.outcome import FailedCompensation, SagaAborted, SagaOutcome, SagaStatus, StepFailed, StepState
from bridge.workflow.publishing import publish
from bridge.workflow.request import RequestTimedOut, request
from bridge.workflow.saga import Branch, Saga, Scope
from bridge.workflow.start import message_aware, origin
from bridge.workflow.step import Child, Command, CompensationInput, Step, StepInput
from bridge.workflow.tracing import trace_of

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
