"""Namespace check against test servers that behave either way."""

from __future__ import annotations

import pytest

from tests.servicebus import namespace
from tests.servicebus.process import ServerProcess

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]

FIRST = {
    "a lock and its connection": "outlives it",
    "renewals in one request": "101 are taken",
    "a property above 32 KiB": "taken",
    "properties above 64 KiB": "taken",
    "a buffered message of a closed receiver": "delivery count 0",
    "a deferred message": "delivery count 1",
    "sequence number of a dead letter": "kept; delivery count changed by 0",
    "an unknown entity": "ServiceBusAuthenticationError amqp:client-error, claim refused with 404",
}
OPTIONS = ("--drop-locks", "--max-renewed-locks=100", "--property-limits")
REFUSED = "refused (ServiceBusError amqp:internal-error, may be tried again)"
OTHER = FIRST | {
    "a lock and its connection": "ends with it (MessageLockLostError com.microsoft:message-lock-lost)",
    "renewals in one request": "101 are refused (ServiceBusError com.microsoft:argument-error)",
    "a property above 32 KiB": REFUSED,
    "properties above 64 KiB": REFUSED,
}


@pytest.mark.parametrize(("options", "expected"), [((), FIRST), (OPTIONS, OTHER)], ids=["defaults", "options"])
async def test_the_questions_are_answered(options: tuple[str, ...], expected: dict[str, str]) -> None:
    with ServerProcess(namespace.QUEUES, namespace.TOPICS, options) as server:
        assert await namespace.missing(server.connection_string) == []
        assert await namespace.answers(server.connection_string) == expected
        assert server.counters()["crashes"] == []


async def test_missing_entities_are_named_with_the_command_that_makes_them() -> None:
    with ServerProcess(namespace.QUEUES[1:-1], ()) as server:
        found = await namespace.missing(server.connection_string)
    assert found == [
        "az servicebus queue create --name orders --lock-duration PT5S",
        "az servicebus queue create --name by-session --lock-duration PT5S --enable-session true",
        "az servicebus topic create --name events",
        "az servicebus topic subscription create --topic-name events --name bridge --lock-duration PT5S",
    ]


def test_without_a_namespace_it_runs_on_a_server_of_our_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(namespace.VARIABLE, raising=False)
    monkeypatch.setattr(namespace, "TESTS", namespace.TESTS[1:])  # the contract suite has its own run
    assert namespace.main() == 0
    printed = capfd.readouterr().out
    assert "a server of our own" in printed
    assert " passed" in printed
