"""Details of the service on which other clients rely, checked through a client where possible."""

from __future__ import annotations

import datetime
import urllib.parse
import uuid
from typing import Any

import pytest
from azure.core.credentials import AzureSasCredential
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusAuthenticationError, SessionLockLostError

from tests.servicebus.conftest import Serve
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import AccessKey, QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import NULL, TRUE, string, uint
from tests.servicebus.server.amqp.frames import frame
from tests.servicebus.server.amqp.values import Described
from tests.servicebus.wire import RawClient, attach, data, flow, request, settle, transfer

pytestmark = pytest.mark.timeout(60)

FILTER = "com.microsoft:session-filter"
OPEN_TO_ALL: tuple[AccessKey, ...] = ()


# Claims


def _signed(key: AccessKey, resource: str, quote: Any) -> str:
    """Create a token whose resource is quoted as a particular client quotes it, and signed as quoted."""
    quoted, expiry = quote(resource), "4102444800"
    signature = urllib.parse.quote_plus(key.signature(quoted, expiry))
    return f"SharedAccessSignature sr={quoted}&sig={signature}&se={expiry}&skn={key.name}"


@pytest.mark.parametrize(
    "quote",
    [
        urllib.parse.quote_plus,
        lambda text: urllib.parse.quote_plus(text).replace("%3A", "%3a").replace("%2F", "%2f"),  # .NET's form
        urllib.parse.quote,
        lambda text: text,
    ],
    ids=["upper", "lower", "slashes", "plain"],
)
async def test_a_signature_is_over_the_resource_as_it_was_sent(serve: Serve, quote: Any) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),)))
    token = _signed(server.config.keys[0], f"sb://{server.address}/orders", quote)
    client = Client(server.address, AzureSasCredential(token), use_tls=False, retry_total=0)
    async with client:
        await send(client, "orders", ["1"])
    other = token.replace("orders", "Orders")
    client = Client(server.address, AzureSasCredential(other), use_tls=False, retry_total=0)
    async with client:
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "orders", ["2"])
    assert len(server.queue("orders")) == 1


async def test_a_claim_for_an_unknown_entity_is_refused_after_its_token_was_checked(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),)))
    wrong = AccessKey(server.config.keys[0].name, "wrong")
    for key, status in ((server.config.keys[0], 404), (wrong, 401)):
        async with Client.from_connection_string(server.connection_string_with(key), retry_total=0) as client:
            for path in ("nowhere", "orders/Subscriptions/none"):
                with pytest.raises(ServiceBusAuthenticationError) as refused:
                    await send(client, path, ["1"])
                assert refused.value.inner_exception.status_code == status  # type: ignore[attr-defined]  # of the class behind the interface
    assert server.counters.attaches["nowhere"] == 0


# Sessions


async def _attach_to_session(server: ServiceBusServer, filter_: bytes) -> tuple[RawClient, list[Any]]:
    client = await RawClient.connect(server.port)
    await client.handshake()
    filters = encoder.mapping([(encoder.symbol(FILTER), filter_)])
    fields = [string("by-session"), *[NULL] * 6, filters]
    source = encoder.described(performatives.SOURCE, encoder.sequence(fields))
    target = encoder.described(performatives.TARGET, encoder.sequence([string("here")]))
    await client.send(
        frame(1, performatives.ATTACH, [string("r"), uint(0), TRUE, NULL, NULL, source, target, NULL, NULL, NULL])
    )
    answer, _ = await client.until(performatives.ATTACH)
    return client, answer


@pytest.mark.parametrize("described", [False, True])
async def test_the_session_filter_of_the_answer_has_the_form_of_the_question(serve: Serve, described: bool) -> None:
    """Go's SDK refuses a session filter without a descriptor; JavaScript's refuses one with a descriptor."""
    server = await serve(ServerConfig((QueueConfig("by-session", requires_session=True),), keys=OPEN_TO_ALL))
    wish = encoder.described(0x137_0000_000C, string("a")) if described else string("a")
    client, answer = await _attach_to_session(server, wish)
    assert answer[5].value[7] == {FILTER: Described(0x137_0000_000C, "a") if described else "a"}
    client.hang_up()


@pytest.mark.parametrize("filter_", [encoder.int32(7), encoder.binary(b"a"), encoder.symbol("a"), TRUE])
async def test_a_session_filter_that_is_no_string_is_refused(serve: Serve, filter_: bytes) -> None:
    server = await serve(ServerConfig((QueueConfig("by-session", requires_session=True),), keys=OPEN_TO_ALL))
    client, answer = await _attach_to_session(server, filter_)
    assert answer[5] is None
    fields, _ = await client.until(performatives.DETACH)
    assert fields[2].value[0] == "amqp:invalid-field"
    client.hang_up()


async def test_sessions_are_listed_by_when_their_state_was_set(
    server: ServiceBusServer, client: ServiceBusClient
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    await send(client, "by-session", ["1"], session_id="without-state")
    async with client.get_queue_receiver("by-session", session_id="with-state") as receiver:
        await receiver.session.set_state(b"s")
    listed = [one async for one in client.list_queue_sessions("by-session")]
    assert listed == ["with-state", "without-state"]
    after = client.list_queue_sessions("by-session", state_updated_after=now - hour)
    assert [one async for one in after] == ["with-state"]
    later = client.list_queue_sessions("by-session", state_updated_after=now + hour)
    assert [one async for one in later] == []


# Locks


async def test_every_locked_message_carries_its_token(server: ServiceBusServer, client: ServiceBusClient) -> None:
    def annotated(message: ServiceBusReceivedMessage) -> Any:
        return (message.raw_amqp_message.delivery_annotations or {}).get(b"x-opt-lock-token")

    await send(client, "orders", ["1", "2"])
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        assert annotated(message) == message.lock_token
        await receiver.defer_message(message)
        [deferred] = await receiver.receive_deferred_messages([message.sequence_number])
        assert annotated(deferred) == deferred.lock_token
        [peeked] = await receiver.peek_messages(1)
        assert annotated(peeked) is None
    async with client.get_queue_receiver("orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        [message] = await take(receiver, 1)
        assert annotated(message) is None


async def test_delivery_annotations_reach_the_receiver(server: ServiceBusServer, client: ServiceBusClient) -> None:
    """Delivery annotations are for one hop in the standard; the SDK's own tests expect them, and an empty map without
    any."""
    sent = AmqpAnnotatedMessage(data_body=b"1", delivery_annotations={"why": "because", "x-opt-lock-token": "mine"})
    async with client.get_queue_sender("orders") as sender:
        await sender.send_messages(sent)
        await sender.send_messages(ServiceBusMessage("2"))
    async with client.get_queue_receiver("orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        first, second = await take(receiver, 2)
    assert first.raw_amqp_message.delivery_annotations == {b"why": b"because"}
    assert second.raw_amqp_message.delivery_annotations == {}


async def _late(server: ServiceBusServer, path: str) -> None:
    """Wait until the locks of the queue have ended while the loop has not run any timer."""
    [message] = server.queue(path).locked.values()
    while server.clock.now() < message.locked_until:
        pass  # blocks the loop, so no timer runs


async def test_a_lock_ends_at_its_millisecond_whenever_its_timer_runs(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders", lock_duration=0.4),)))
    client = Client.from_connection_string(server.connection_string, retry_total=0)
    async with client:
        await send(client, "orders", ["1"])
        async with client.get_queue_receiver("orders") as receiver:
            [message] = await take(receiver, 1)
            [held] = server.queue("orders").locked.values()
            assert message.locked_until_utc == datetime.datetime.fromtimestamp(
                held.locked_until / 1000, datetime.UTC
            ).replace(microsecond=held.locked_until % 1000 * 1000)
            await _late(server, "orders")
            assert server.queue("orders").held(held.token) is None
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(message)
    assert server.counters.outcome("orders", "complete") == 0
    assert server.counters.expired_locks["orders"] == 1


async def test_a_session_s_lock_ends_at_its_millisecond_too(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("by-session", lock_duration=0.4, requires_session=True),)))
    client = Client.from_connection_string(server.connection_string, retry_total=0)
    async with client:
        await send(client, "by-session", ["1"], session_id="a")
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            [message] = await take(receiver, 1)
            await _late(server, "by-session")
            queue = server.queue("by-session")
            assert queue.sessions is not None
            [token] = queue.locked
            assert queue.held(token) is None
            with pytest.raises(SessionLockLostError):
                await receiver.complete_message(message)
    assert server.counters.expired_session_locks["by-session"] == 1


async def test_a_disposition_on_a_detached_link_settles_nothing(serve: Serve) -> None:
    """The delivery ends with its link; the lock does not, and $management settles under it."""
    server = await serve(ServerConfig((QueueConfig("orders"),), keys=OPEN_TO_ALL))
    client = await RawClient.connect(server.port)
    await client.handshake()
    await client.send(attach("s", 0, "orders", receiver=False) + transfer(0, 0, data(b"1")))
    await client.until(performatives.DISPOSITION)
    await client.send(attach("r", 1, "orders", receiver=True) + flow(1, 1))
    fields, _ = await client.until(performatives.TRANSFER)
    number, token = fields[1], uuid.UUID(bytes_le=fields[2])
    await client.send(frame(1, performatives.DETACH, [uint(1), TRUE, NULL]))
    await client.until(performatives.DETACH)
    await client.send(settle(number, performatives.ACCEPTED))
    node = "orders/$management"
    tokens = b"\xe0" + bytes((18, 1, 0x98)) + token.bytes
    wish = encoder.mapping([(string("disposition-status"), string("completed")), (string("lock-tokens"), tokens)])
    question = request({"operation": "com.microsoft:update-disposition"}, wish)
    await client.send(attach("m", 2, node, receiver=False) + attach("n", 3, node, receiver=True) + flow(3, 1))
    await client.send(transfer(2, 1, question))
    _, answer = await client.until(performatives.TRANSFER)
    assert b"statusCode" in answer
    assert server.counters.outcome("orders", "complete") == 1
    assert server.counters.lost_settlements["orders"] == 0
    assert server.counters.settled["orders complete"] == server.counters.operations["update-disposition"] == 1
    client.hang_up()


# Properties to modify


def _with(changes: dict[bytes, Any]) -> bytes:
    """Create an outcome `modified` with annotations, as other SDKs send it."""
    found = encoder.mapping([(encoder.symbol(name.decode()), value) for name, value in changes.items()])
    return encoder.described(performatives.MODIFIED_STATE, encoder.sequence([encoder.FALSE, encoder.FALSE, found]))


async def _management(receiver: ServiceBusReceiver, status: str, token: Any, **more: Any) -> None:
    """Settle over $management with properties; the SDK can send this request but has no method for it."""
    transport = receiver._amqp_transport
    message = {
        "disposition-status": status,
        "lock-tokens": transport.AMQP_ARRAY_VALUE((token,)),
        "properties-to-modify": {"kept": "no", "count": transport.AMQP_LONG_VALUE(7)},
        **more,
    }
    await receiver._mgmt_request_response_with_retry(
        b"com.microsoft:update-disposition", message, lambda *_, **__: None
    )


@pytest.mark.parametrize("status", ["abandoned", "defered", "suspended"])
async def test_a_settlement_over_management_sets_properties(
    server: ServiceBusServer, client: ServiceBusClient, status: str
) -> None:
    await send(client, "orders", ["1"], application_properties={"kept": "yes", "own": 1})
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        await _management(receiver, status, message.lock_token)
        if status == "defered":
            [again] = await receiver.receive_deferred_messages([message.sequence_number])
        elif status == "abandoned":
            [again] = await take(receiver, 1)
        else:
            async with client.get_queue_receiver("orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
                [again] = await take(dead, 1)
    assert again.application_properties == {b"kept": b"no", b"own": 1, b"count": 7}
    assert body(again) == "1"


async def test_an_outcome_sets_properties(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),), keys=OPEN_TO_ALL))
    client = await RawClient.connect(server.port)
    await client.handshake()
    await client.send(attach("s", 0, "orders", receiver=False) + transfer(0, 0, data(b"1")))
    await client.until(performatives.DISPOSITION)
    await client.send(attach("r", 1, "orders", receiver=True) + flow(1, 9))
    fields, _ = await client.until(performatives.TRANSFER)
    await client.send(settle(fields[1], _with({b"why": string("because")})))
    fields, _ = await client.until(performatives.TRANSFER)
    info = encoder.mapping(
        [
            (encoder.symbol("DeadLetterReason"), string("reason")),
            (encoder.symbol("tries"), encoder.int64(3)),
        ]
    )
    error = encoder.described(
        performatives.ERROR, encoder.sequence([encoder.symbol("com.microsoft:dead-letter"), NULL, info])
    )
    await client.send(settle(fields[1], encoder.described(performatives.REJECTED_STATE, encoder.sequence([error]))))
    await client.until(performatives.DISPOSITION)
    [dead_letter] = server.dead_letters("orders").ready
    assert dead_letter.read_application_properties() == {"why": "because", "tries": 3}
    assert dead_letter.dead_letter_reason == "reason"
    client.hang_up()


# Defaults


def test_entities_have_the_service_s_defaults() -> None:
    queue = QueueConfig("orders")
    assert (queue.lock_duration, queue.max_delivery_count, queue.default_ttl) == (60.0, 10, None)
    assert not queue.requires_session
    assert not queue.dead_letter_on_expiration
    assert queue.duplicate_detection == 0.0
