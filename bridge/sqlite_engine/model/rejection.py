"""Rejection of calls by the engine: a gRPC status and a sentence."""

from __future__ import annotations

import grpc


class Rejection(Exception):
    """Raised to end a call with `code` and `details`, before any change."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def invalid_argument(details: str) -> Rejection:
    return Rejection(grpc.StatusCode.INVALID_ARGUMENT, details)


def not_found(instance_id: str) -> Rejection:
    return Rejection(grpc.StatusCode.NOT_FOUND, f"Orchestration instance '{instance_id[:256]}' not found")


def precondition(details: str) -> Rejection:
    return Rejection(grpc.StatusCode.FAILED_PRECONDITION, details)


def internal(details: str) -> Rejection:
    return Rejection(grpc.StatusCode.INTERNAL, details)


def unavailable(details: str) -> Rejection:
    return Rejection(grpc.StatusCode.UNAVAILABLE, details)


def unread_full(events: int, size: int) -> Rejection:
    return exhausted(f"The instance has {events} unread events of {size} bytes; no further event is taken")


def exhausted(details: str) -> Rejection:
    return Rejection(grpc.StatusCode.RESOURCE_EXHAUSTED, details)


def instance_finished(instance_id: str) -> Rejection:
    return precondition(f"Orchestration instance '{instance_id[:256]}' has finished")
