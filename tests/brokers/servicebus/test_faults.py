"""Translation of every azure-servicebus exception and of every error condition of the service."""

from __future__ import annotations

import itertools
import logging
import ssl
from typing import Any, get_args

import pytest
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import CredentialUnavailableError
from azure.servicebus import exceptions
from azure.servicebus._common import constants
from azure.servicebus._pyamqp.error import ErrorCondition, MessageException, TokenAuthFailure
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.faults import (
    MEANING_OF,
    MEANING_OF_CONDITION,
    Doing,
    Meaning,
    Refused,
    is_answer,
    may_be_the_message,
    translate,
)
from bridge.core.errors import BrokerUnavailable, LockLost, PublishFailed, SettlementRefused, TargetRefused

CLASSES = sorted(
    {
        each
        for each in vars(exceptions).values()
        if isinstance(each, type) and issubclass(each, Exception) and each.__module__ == exceptions.__name__
    },
    key=lambda each: each.__name__,
)


def test_the_walk_finds_them() -> None:
    assert len(CLASSES) >= 18


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_mapped_by_itself(kind: type[Exception]) -> None:
    assert kind in MEANING_OF, f"{kind.__name__} has no meaning"


def _make(kind: type[Exception]) -> Exception:
    taken: Any = kind
    try:
        return taken(message="x")
    except TypeError:
        return taken("x")


DOING = get_args(Doing)


def _expected(found: Meaning, doing: Doing) -> type[object]:
    sending = doing in ("opening", "publishing")
    return {
        Meaning.AWAY: BrokerUnavailable,
        Meaning.QUIET: BrokerUnavailable,
        Meaning.DENIED: TargetRefused if sending else Refused,
        Meaning.REFUSED: SettlementRefused if doing == "settling" else PublishFailed,
        Meaning.LOST: LockLost,
        Meaning.BUG: type(None),
    }[found]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_translated(kind: type[Exception]) -> None:
    for doing in DOING:
        assert type(translate(_make(kind), "bus: try", doing=doing)) is _expected(MEANING_OF[kind], doing), doing


CONDITIONS = sorted(
    {each.value.decode() for each in ErrorCondition}
    | {value.decode() for name, value in vars(constants).items() if name.startswith("ERROR_CODE_")}
    | {"com.microsoft:container-close", "com.microsoft:operation-cancelled"}
)


def _of_the_sdk(condition: str, status: int | None = None) -> Exception:
    """Return the SDK's error for a condition: on a link, or with a status on the management link."""
    logger = logging.getLogger("test")
    if status is None:
        error: Exception = PyamqpTransport.create_servicebus_exception(logger, MessageException(condition.encode()))
        return error
    try:
        PyamqpTransport.handle_amqp_mgmt_error(logger, "no", condition.encode(), "text", status)  # type: ignore[arg-type]  # wider than its annotation, on purpose
    except exceptions.ServiceBusError as error:
        return error
    raise AssertionError("it raises")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_is_told_apart_in_an_answer_to_a_message(condition: str) -> None:
    doings: tuple[Doing, ...] = ("settling", "publishing")
    for doing, status in itertools.product(doings, (None, 400)):
        error = _of_the_sdk(condition, status)
        assert sdk_internals.condition(error) == condition
        assert type(translate(error, "bus: try", doing=doing)) is _expected(MEANING_OF_CONDITION[condition], doing), (
            doing,
            status,
        )


@pytest.mark.parametrize("condition", [each for each in CONDITIONS if MEANING_OF_CONDITION[each] is Meaning.REFUSED])
def test_what_refuses_a_message_refuses_none_where_none_was_settled(condition: str) -> None:
    error = _of_the_sdk(condition)
    assert type(translate(error, "bus: read", doing="reading")) is not SettlementRefused
    assert type(translate(error, "bus: read", doing="reading")) in (BrokerUnavailable, PublishFailed)


def test_an_unknown_condition_may_pass() -> None:
    error = _of_the_sdk("com.microsoft:something-new")
    assert type(translate(error, "bus: try", doing="settling")) is BrokerUnavailable
    assert may_be_the_message(error)
    assert is_answer(error)
    assert not is_answer(_of_the_sdk("amqp:connection:forced"))
    assert not may_be_the_message(_of_the_sdk("com.microsoft:server-busy"))


@pytest.mark.parametrize(
    ("path", "doing", "text"),
    [
        ("orders", "reading", "no queue orders in ns.example: create it, or correct `queue`"),
        ("orders/$DeadLetterQueue", "reading", "no queue orders in ns.example: create it, or correct `queue`"),
        ("t/Subscriptions/s", "reading", "no subscription s of a topic t in ns.example: create it"),
        ("dead", "opening", "no queue or topic dead in ns.example: create it, or correct its name"),
        ("dead", "publishing", "no queue or topic dead in ns.example: create it, or correct its name"),
    ],
)
def test_an_unknown_entity_is_named(path: str, doing: Doing, text: str) -> None:
    """The service may refuse the claim or the link of an unknown entity."""
    claim = exceptions.ServiceBusAuthenticationError(error=TokenAuthFailure(404, b"no such entity"))  # type: ignore[no-untyped-call]  # it comes without types
    for error in (claim, exceptions.MessagingEntityNotFoundError()):
        found = str(translate(error, "bus: try", doing=doing, path=path, namespace="ns.example"))
        assert text in found
        assert "credentials" not in found
    wrong = exceptions.ServiceBusAuthenticationError(error=TokenAuthFailure(401, b"wrong signature"))  # type: ignore[no-untyped-call]  # it comes without types
    assert "credentials" in str(translate(wrong, "bus: try", doing=doing, path=path, namespace="ns.example"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), BrokerUnavailable),
        (ConnectionResetError("x"), BrokerUnavailable),
        (ssl.SSLError("x"), BrokerUnavailable),
        (AzureError("x"), BrokerUnavailable),
        (ClientAuthenticationError("x"), Refused),
        (CredentialUnavailableError("x"), Refused),
        (LockLost("x"), LockLost),
        (ValueError("Link already closed."), BrokerUnavailable),
        (ValueError("Management Operation error occurred."), BrokerUnavailable),
        (RuntimeError("handler is not initialized and cannot complete the message"), BrokerUnavailable),
    ],
)
def test_others_are_translated_too(error: Exception, kind: type[Exception]) -> None:
    assert type(translate(error, "bus: try")) is kind


def test_a_bug_stays_one() -> None:
    assert translate(KeyError("x"), "bus: try") is None
    assert translate(ValueError("The timeout must be greater than 0."), "bus: try") is None
