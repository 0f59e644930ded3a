"""Translation of every external error on the engine side."""

from __future__ import annotations

import inspect
from typing import Any

import azure.core.exceptions
import azure.identity
import grpc
import grpc.aio
import pytest

from bridge.core import errors
from bridge.core.errors import (
    EngineDenied,
    EngineError,
    EngineMisconfigured,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    InstanceAlreadyExists,
    InstanceNotFound,
)
from bridge.engines.embedded.inprocess.call import InProcessRpcError
from bridge.engines.errors import STATUS, translate

EXPECTED = {
    "OK": EngineError,
    "CANCELLED": EngineUnavailable,
    "UNKNOWN": EngineError,
    "INVALID_ARGUMENT": EngineRejected,
    "DEADLINE_EXCEEDED": EngineTimeout,
    "NOT_FOUND": InstanceNotFound,
    "ALREADY_EXISTS": InstanceAlreadyExists,
    "PERMISSION_DENIED": EngineDenied,
    "UNAUTHENTICATED": EngineDenied,
    "RESOURCE_EXHAUSTED": EngineUnavailable,
    "FAILED_PRECONDITION": EngineRejected,
    "ABORTED": EngineUnavailable,
    "OUT_OF_RANGE": EngineRejected,
    "UNIMPLEMENTED": EngineMisconfigured,
    "INTERNAL": EngineError,
    "UNAVAILABLE": EngineUnavailable,
    "DATA_LOSS": EngineError,
}


def aio_error(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_is_mapped(code: Any) -> None:
    assert code in STATUS
    for error in (aio_error(code, "text"), InProcessRpcError((code, "text", ()))):
        translated = translate(error, what="start 'a'")
        assert type(translated) is EXPECTED[code.name]
        assert str(translated).startswith("start 'a': ")


def classes(*modules: Any) -> Any:
    return sorted(
        {
            member
            for module in modules
            for _name, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, BaseException)
        },
        key=lambda member: member.__name__,
    )


@pytest.mark.parametrize("kind", classes(azure.core.exceptions, azure.identity), ids=lambda kind: kind.__name__)
def test_every_azure_error_is_an_outage(kind: Any) -> None:
    """Azure errors never concern a message: they come from fetching tokens."""
    error = kind.__new__(kind)
    Exception.__init__(error, "text")
    expected = EngineDenied if issubclass(kind, azure.core.exceptions.ClientAuthenticationError) else EngineUnavailable
    assert type(translate(error, what="start 'a'")) is expected


@pytest.mark.parametrize("kind", classes(grpc, grpc.aio), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_grpc_error_class_is_translated(kind: Any) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "text")
    if hasattr(error, "code"):
        return  # has a status: see above
    expected = EngineTimeout if kind is grpc.FutureTimeoutError else EngineUnavailable
    assert type(translate(error, what="start 'a'")) is expected


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("CLIENT: Sent message larger than max (5 vs. 4)", EngineRejected),
        ("Received message larger than max (5 vs. 4)", EngineRejected),
        ("too many requests", EngineUnavailable),
        ("more than 32 workers and waits are open", EngineUnavailable),
    ],
)
def test_exhausted_by_size_or_by_load(details: Any, expected: Any) -> None:
    assert type(translate(aio_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details), what="x")) is expected


def test_a_request_beyond_the_limit_of_the_configuration_names_the_setting() -> None:
    sent, received = (
        str(translate(aio_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details), what="x"))
        for details in ("CLIENT: Sent message larger than max (5 vs. 4)", "Received message larger than max (5 vs. 4)")
    )
    assert sent.startswith("x: the request exceeds `max_request` of the engine: CLIENT: Sent message larger")
    assert received.startswith("x: the request exceeds the limit of the engine: Received message larger")


def test_missing_task_hub() -> None:
    error = aio_error(grpc.StatusCode.NOT_FOUND, "The TaskHub 'x' was not found")
    assert type(translate(error, what="x")) is EngineMisconfigured


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), EngineTimeout),
        (ValueError("secret"), EngineRejected),
        (TypeError("secret"), EngineRejected),
        (ConnectionRefusedError(), EngineUnavailable),
        (RuntimeError("The client is closed"), EngineUnavailable),
        (ValueError("Cannot invoke RPC on closed channel!"), EngineUnavailable),
    ],
)
def test_errors_of_the_client(error: Any, expected: Any) -> None:
    translated = translate(error, what="start 'a'")
    assert type(translated) is expected
    assert "secret" not in str(translated)


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(KeyError):
        translate(KeyError("x"), what="start 'a'")
    with pytest.raises(RuntimeError, match="other"):
        translate(RuntimeError("other"), what="start 'a'")


def test_own_errors_pass() -> None:
    error = errors.InstanceFinished("done")
    assert translate(error, what="x") is error


@pytest.mark.parametrize("code", ["UNKNOWN", "INTERNAL", "DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION"])
def test_details_that_may_quote_payload_are_not_told(code: Any) -> None:
    translated = translate(aio_error(grpc.StatusCode[code], "card 4111"), what="start 'a'")
    assert "4111" not in str(translated)


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ("The call has an instance id of 101 characters; at most 100 are allowed", 1),
        ("The call has an event's data of 9 bytes; at most 8 are allowed, the scheduler's limit, by `strict`", 1),
        ("The call has tags of 70000 bytes; at most 65536 are allowed", 1),
        ("The call has a version of 3 characters; at most 2 are allowed: the customer's secret", 0),
        ("the customer's secret of 3 characters; at most 2 are allowed", 0),
    ],
)
def test_a_refusal_names_the_bound_of_an_embedded_engine_and_nothing_else(details: str, said: int) -> None:
    error = translate(aio_error(grpc.StatusCode.INVALID_ARGUMENT, details), what="start 'a'")
    assert isinstance(error, EngineRejected)
    assert str(error).count(details) == said
    assert ("secret" in str(error)) == ("secret" in details and bool(said))
