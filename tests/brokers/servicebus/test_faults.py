"""Every exception of azure-servicebus has a meaning."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import CredentialUnavailableError
from azure.servicebus import exceptions

from bridge.brokers.servicebus.faults import Meaning, Refused, meaning, translate
from bridge.errors import BrokerUnavailable, LockLost, PublishFailed

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
    assert meaning(kind) is not None, f"{kind.__name__} has no meaning"


def _make(kind: type[Exception]) -> Exception:
    taken: Any = kind
    try:
        return taken(message="x")  # type: ignore[no-any-return]
    except TypeError:
        return taken("x")  # type: ignore[no-any-return]


@pytest.mark.parametrize("publishing", [False, True])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_translated(kind: type[Exception], publishing: bool) -> None:
    expected = {
        Meaning.AWAY: BrokerUnavailable,
        Meaning.QUIET: BrokerUnavailable,
        Meaning.DENIED: PublishFailed if publishing else Refused,
        Meaning.REFUSED: PublishFailed,
        Meaning.LOST: LockLost,
        Meaning.BUG: type(None),
    }[meaning(kind)]  # type: ignore[index]  # the test above
    assert type(translate(_make(kind), "bus: try", publishing=publishing)) is expected


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
