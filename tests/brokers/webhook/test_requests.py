"""Requests of a webhook: headers, signature, repetition, limits."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.webhook.request import retry_after, signature_headers
from bridge.codecs.cloudevents import CloudEventsBinaryCodec, CloudEventsCodec
from bridge.config.model.webhook import WebhookBrokerConfig, signing_key
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishRefused, is_final_failure
from bridge.core.message import Event, Message
from tests.brokers.webhook.harness import WebhookHarness
from tests.kafka.certificates import Authority
from tests.kit.listener import NullListener
from tests.kit.waiting import eventually
from tests.kit.webhook import WebhookReceiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Secret of the example in the documentation of Standard Webhooks."""

EVENT = Event(
    "e-1", "shop", "order.failed", {"ü": 1}, subject='5 % "off" ü', headers={"traceparent": "00-1"}, key="order-1"
)


def test_the_signature_is_that_of_the_standard() -> None:
    headers = dict(
        signature_headers(
            "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [signing_key(SecretStr(SECRET))]
        )
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_structured_event(harness: WebhookHarness) -> None:
    broker = await harness.broker(
        secret=SECRET,
        former_secret="whsec_" + base64.b64encode(b"f" * 32).decode(),
        token="t-1",
        headers={"X-Team": "ops"},
    )
    began = int(time.time())
    await broker.publish("", [CloudEventsCodec().encode(EVENT)])
    [request] = harness.receiver.accepted
    assert request.path == "/hooks?team=ops"
    assert request.event["id"] == "e-1"
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert (request.headers["authorization"], request.headers["x-team"]) == ("Bearer t-1", "ops")
    assert request.headers["traceparent"] == "00-1"
    assert "cookie" not in request.headers
    assert request.headers["webhook-id"] == "e-1"
    assert began <= int(request.headers["webhook-timestamp"]) <= time.time()
    signed = f"e-1.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = [
        base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in (base64.b64decode(SECRET.removeprefix("whsec_")), b"f" * 32)
    ]
    assert request.headers["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)


async def test_a_binary_event(harness: WebhookHarness) -> None:
    await (await harness.broker()).publish("", [CloudEventsBinaryCodec().encode(EVENT)])
    [request] = harness.receiver.accepted
    assert request.event == {"ü": 1}
    assert request.headers["content-type"] == "application/json"
    assert (request.headers["ce-id"], request.headers["ce-type"]) == ("e-1", "order.failed")
    # The encoding of CloudEvents' HTTP binding, section 3.1.3.2
    assert request.headers["ce-subject"] == "5%20%25%20%22off%22%20%C3%BC"
    assert "webhook-signature" not in request.headers


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_answer_that_may_change_is_asked_for_again(harness: WebhookHarness, status: int) -> None:
    harness.receiver.answer([status, status])
    await (await harness.broker()).publish("", [Message(b"x", message_id="m-1")])
    assert len(harness.receiver.requests) == 3
    assert {each.headers["webhook-id"] for each in harness.receiver.requests} == {"m-1"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
async def test_another_refusal_is_final(harness: WebhookHarness, status: int) -> None:
    harness.receiver.answer([status])
    with pytest.raises(PublishRefused, match=f"refuses the event with status {status}") as caught:
        await (await harness.broker()).publish("", [Message(b"x")])
    assert len(harness.receiver.requests) == 1
    assert is_final_failure(f"{type(caught.value).__module__}.{type(caught.value).__qualname__}")
    assert "team" not in str(caught.value)


async def test_a_redirect_is_not_followed(harness: WebhookHarness, receiver: WebhookReceiver) -> None:
    receiver.answer([307], Location=receiver.url)
    with pytest.raises(PublishRefused, match="redirects"):
        await (await harness.broker()).publish("", [Message(b"x")])
    assert len(receiver.requests) == 1


async def test_attempts_are_bounded(harness: WebhookHarness) -> None:
    harness.receiver.status = 500
    with pytest.raises(BrokerUnavailable, match="status 500"):
        await (await harness.broker()).publish("", [Message(b"x")])
    assert len(harness.receiver.requests) == 4


async def test_retry_after_stops_all_requests(harness: WebhookHarness) -> None:
    broker = await harness.broker(retry={"attempts": 2, "first": "1ms"})
    harness.receiver.answer([503], Retry_After="1")
    began = time.monotonic()
    await broker.publish("", [Message(b"x")])
    assert time.monotonic() - began >= 0.9
    # An hour is more than the limit
    limited = await harness.broker(retry={"attempts": 2, "first": "1ms", "max_retry_after": "10ms"})
    harness.receiver.answer([429], Retry_After="3600")
    await limited.publish("", [Message(b"y")])
    assert [each.body for each in harness.receiver.accepted] == [b"x", b"y"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 60.0), ("Wed, 21 Oct 2020 07:28:00 GMT", 0.0)]
    + [(bad, None) for bad in ("", "soon", "-1", "1.5", "9" * 400, "Wed, 99 Oct 2026", "١٢")],
)
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    now = 1792567620.0  # 2026-10-21T07:27:00Z
    assert retry_after({"Retry-After": text}, now) == seconds


async def test_a_receiver_that_is_away(harness: WebhookHarness) -> None:
    broker = await harness.broker(url="http://127.0.0.1:1/secret-path", retry={"attempts": 1})
    with pytest.raises(BrokerUnavailable, match="cannot be reached") as caught:
        await broker.publish("", [Message(b"x")])
    assert "secret-path" not in str(caught.value)


async def test_a_receiver_that_does_not_answer(harness: WebhookHarness) -> None:
    harness.receiver.gate.clear()
    broker = await harness.broker(timeout="50ms", retry={"attempts": 1})
    with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.05 s"):
        await broker.publish("", [Message(b"x")])


async def test_a_large_answer_is_not_read(harness: WebhookHarness) -> None:
    harness.receiver.status, harness.receiver.body = 200, b"x" * 20_000_000
    broker = await harness.broker()
    for number in range(3):
        await broker.publish("", [Message(b"%d" % number)])
    assert [each.body for each in harness.receiver.accepted] == [b"0", b"1", b"2"]


async def test_limits_of_an_event(harness: WebhookHarness) -> None:
    broker = await harness.broker(max_body="1KiB")
    await broker.publish("", [Message(b"x" * 1024)])
    with pytest.raises(PublishRefused, match="1,025 bytes"):
        await broker.publish("", [Message(b"x" * 1025)])
    for name in ("Host", "authorization", "webhook-signature", "a b", "content-length"):
        with pytest.raises(PublishRefused, match="cannot be sent"):
            await broker.publish("", [Message(b"x", headers=((name, b"v"),))])
    with pytest.raises(PublishRefused, match="HTTP cannot carry"):
        await broker.publish("", [Message(b"x", headers=(("note", b"a\r\nb: c"),))])
    assert len(harness.receiver.requests) == 1


async def test_nothing_can_be_read(harness: WebhookHarness) -> None:
    with pytest.raises(BrokerError, match="no messages to read"):
        await (await harness.broker()).subscribe(SubscribeOptions(("t",)), NullListener())


async def test_requests_at_once_are_bounded(harness: WebhookHarness) -> None:
    harness.receiver.gate.clear()
    broker = await harness.broker(concurrent=2)
    sends = [asyncio.create_task(broker.publish("", [Message(b"%d" % n)])) for n in range(6)]
    await eventually(lambda: len(harness.receiver.requests) == 2, "two requests")
    harness.receiver.gate.set()
    await asyncio.gather(*sends)
    assert len(harness.receiver.accepted) == 6


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server"))
    with WebhookReceiver(tls=context) as receiver:
        harness = WebhookHarness(receiver)
        try:
            with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await (await harness.broker(retry={"attempts": 1})).publish("", [Message(b"x")])
            assert receiver.requests == []
            trusted = await harness.broker(tls={"ca": str(authority.file)})
            await trusted.publish("", [Message(b"x")])
            assert len(receiver.accepted) == 1
        finally:
            await harness.stop()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "ftp://x"}, "https://HOST/PATH"),
        ({"url": "https://"}, "https://HOST/PATH"),
        ({"url": "https://x:99999/"}, "https://HOST/PATH"),
        ({"url": "https://x/a b"}, "https://HOST/PATH"),
        ({"url": "https://user:pass@x/"}, "no credentials"),
        ({"secret": "geheim"}, "24 to 64 bytes"),
        ({"secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"former_secret": SECRET}, "`former_secret` needs `secret`"),
        ({"headers": {"Host": "x"}}, "sets the header host itself"),
        ({"headers": {"ce-id": "x"}}, "sets the header ce-id itself"),
        ({"headers": {"a b": "x"}}, "not the name of a header"),
        ({"headers": {"x": "a\nb"}}, "characters that a header cannot have"),
        ({"token": "a\nb"}, "characters that a header cannot have"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        WebhookBrokerConfig.model_validate({"type": "webhook", "url": "https://x"} | wrong)
    assert "geheim" not in str(caught.value.errors(include_input=False)[0]["msg"])
