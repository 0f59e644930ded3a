"""Refusals: errors with which the service answers requests, for every kind of request."""

from __future__ import annotations


class Refusal(Exception):
    """Raised to refuse a request. condition: the AMQP error condition. status: the code in a management reply."""

    def __init__(self, condition: str, description: str, status: int = 400) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition, self.description, self.status = condition, description, status


STATUSES = {
    "amqp:not-found": 404,
    "amqp:not-allowed": 400,
    "amqp:unauthorized-access": 401,
    "amqp:not-implemented": 501,
    "amqp:invalid-field": 400,
    "com.microsoft:argument-error": 400,
    "com.microsoft:message-lock-lost": 410,
    "com.microsoft:session-lock-lost": 410,
    "com.microsoft:message-not-found": 404,
    "com.microsoft:session-cannot-be-locked": 409,
    "com.microsoft:server-busy": 503,
    "com.microsoft:timeout": 408,
}


def refusal(condition: str, description: str) -> Refusal:
    """Create a refusal with the status of its condition; 500 for a condition without a status."""
    return Refusal(condition, description, STATUSES.get(condition, 500))


def not_allowed(description: str) -> Refusal:
    return refusal("amqp:not-allowed", description)


def not_found(path: str) -> Refusal:
    return refusal("amqp:not-found", f"The messaging entity '{path}' could not be found.")


def unprocessable() -> Refusal:
    """Create the service's refusal of too large properties.

    The text suggests a retry, although a retry cannot help.
    """
    return refusal("amqp:internal-error", "The service was unable to process the request; please retry the operation.")


def message_lock_lost() -> Refusal:
    return refusal(
        "com.microsoft:message-lock-lost",
        "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the "
        "queue, or was received by a different receiver instance.",
    )


def session_lock_lost() -> Refusal:
    return refusal(
        "com.microsoft:session-lock-lost",
        "The session lock has expired on the MessageSession. Accept a new MessageSession.",
    )


def message_not_found(sequence_number: int) -> Refusal:
    return refusal("com.microsoft:message-not-found", f"No such message: sequence number {sequence_number}.")


def server_busy() -> Refusal:
    return refusal("com.microsoft:server-busy", "The server is busy. Wait a while and try again.")
