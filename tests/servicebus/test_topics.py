"""Topics, subscriptions, and the rules between them."""

from __future__ import annotations

from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.waiting import eventually
from tests.servicebus.conftest import Serve
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import (
    CorrelationFilter,
    FalseFilter,
    Rule,
    ServerConfig,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
)
from tests.servicebus.server.entities.sql import parse

SUBSCRIPTIONS = (
    SubscriptionConfig("all", max_delivery_count=1),
    SubscriptionConfig("none", rules=(Rule("no", FalseFilter()),)),
    SubscriptionConfig("eu", rules=(Rule("eu", CorrelationFilter({"Label": "order"}, {"region": "eu"})),)),
    SubscriptionConfig(
        "large",
        rules=(Rule("large", SqlFilter("total > 100 AND sys.Label LIKE 'ord%'")), Rule("vip", SqlFilter("vip"))),
    ),
)


async def test_each_subscription_gets_what_its_rules_say_once(serve: Serve) -> None:
    server = await serve(ServerConfig(topics=(TopicConfig("events", SUBSCRIPTIONS, duplicate_detection=60),)))
    async with Client.from_connection_string(server.connection_string, retry_total=0) as client:
        messages = [
            ServiceBusMessage(
                "1", message_id="1", subject="order", application_properties={"region": "eu", "total": 5}
            ),
            ServiceBusMessage(
                "2", message_id="2", subject="order", application_properties={"region": "us", "total": 500}
            ),
            ServiceBusMessage("3", message_id="3", subject="offer", application_properties={"total": 500}),
            ServiceBusMessage("4", message_id="4", subject="order", application_properties={"vip": True, "total": 900}),
            ServiceBusMessage("1 again", message_id="1", subject="order"),
        ]
        await send(client, "events", messages)
        got = {}
        for subscription in server.namespace.find("events").subscriptions.values():  # type: ignore[union-attr]
            name = subscription.config.name.rpartition("/")[2]
            got[name] = [b"".join([m.body]).decode("latin-1")[-1] for m in subscription.browse(1, 9)]
        assert got == {"all": ["1", "2", "3", "4"], "none": [], "eu": ["1"], "large": ["2", "4"]}
        async with client.get_subscription_receiver("events", "eu") as receiver:
            [message] = await take(receiver, 1)
            assert (body(message), message.sequence_number, message.enqueued_sequence_number) == ("1", 1, None)
            await receiver.complete_message(message)
        async with client.get_subscription_receiver("Events", "ALL") as receiver:
            first = (await take(receiver, 4))[0]
            await receiver.abandon_message(first)
            await eventually(lambda: len(server.counters.dead_letters) == 1)
        dead = client.get_subscription_receiver("events", "all", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        async with dead as receiver:
            [dead_letter] = await take(receiver, 1)
            assert (body(dead_letter), dead_letter.dead_letter_reason) == ("1", "MaxDeliveryCountExceeded")
            await receiver.complete_message(dead_letter)
        with pytest.raises(ServiceBusError, match="topic"):
            async with client.get_queue_receiver("events"):
                pass
    assert server.counters.duplicates["events"] == 1


class _Facts:
    def __init__(self, user: dict[str, Any], system: dict[str, Any] | None = None) -> None:
        self._user, self._system = user, system or {}

    def user(self, name: str) -> Any:
        return self._user.get(name)

    def system(self, name: str) -> Any:
        return self._system.get(name)

    def has(self, name: str) -> bool:
        return name in self._user


FACTS = _Facts({"n": 7, "half": 0.5, "t": "it's", "yes": True, "odd name": 1}, {"Label": "order.created"})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1=1", True),
        ("1=0", False),
        ("n = 7 AND half < 1", True),
        ("n <> 7 OR half >= 0.5", True),
        ("NOT n = 7", False),
        ("n > 3 and not (n > 5)", False),
        ("t = 'it''s'", True),
        ("[odd name] = 1", True),
        ("user.n = 7", True),
        ("sys.Label = 'order.created'", True),
        ("sys.Label LIKE 'order.%'", True),
        ("sys.Label LIKE 'order_created'", True),
        ("sys.Label LIKE 'order!_created' ESCAPE '!'", False),
        ("sys.Label NOT LIKE 'x%'", True),
        ("n IN (1, 7)", True),
        ("n NOT IN (1, 7)", False),
        ("n IN (1, 2)", False),
        ("EXISTS(n)", True),
        ("EXISTS (nothing)", False),
        ("nothing IS NULL", True),
        ("n IS NOT NULL", True),
        ("n + 1 = 8 AND n * 2 - 4 = 10 AND n % 4 = 3 AND n / 2 = 3.5", True),
        ("-n = -7", True),
        ("yes", True),
        ("yes = TRUE", True),
        ("nothing = 1", None),
        ("nothing <> 1", None),
        ("NOT nothing = 1", None),
        ("nothing = 1 OR n = 7", True),
        ("nothing = 1 AND n = 7", None),
        ("nothing = 1 AND n = 8", False),
        ("nothing IN (1)", None),
        ("t > 5", None),
        ("n / 0 = 1", None),
    ],
)
def test_conditions(expression: str, value: bool | None) -> None:
    assert parse(expression)(FACTS) is value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "n =",
        "= 1",
        "(n = 1",
        "n = 1)",
        "n LIKE 5",
        "n NOT 5",
        "n IN ()",
        "n IS 5",
        "a b",
        "'open",
        "n ; 1",
        "1e3 = 1",
    ],
)
def test_what_is_no_condition_is_said(expression: str) -> None:
    with pytest.raises(ValueError, match="SQL filter"):
        parse(expression)


@given(st.text(st.sampled_from("ab10 =<>()'.%AND OR NOT IN LIKE"), max_size=25))
def test_any_text_is_a_condition_or_said(expression: str) -> None:
    try:
        condition = parse(expression)
    except ValueError:
        return
    condition(FACTS)
