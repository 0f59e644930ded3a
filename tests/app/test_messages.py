"""Messages from people and scripts: sent unchanged, wrapped, or refused with an explanation."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from bridge.app.messages.reading import MessageOptions, build, lines
from bridge.codecs import registry as codecs
from bridge.core.errors import DecodeError
from bridge.core.message import Message, Position

EVENT = b'{"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "data": {"id": "1001"}}'
HERE = Position("test", "orders", 0, 0)


def header(message: Message, name: str) -> list[bytes]:
    return [value for key, value in message.headers if key == name]


def read(text: str, topic: str | None = "orders", options: MessageOptions | None = None) -> list[tuple[str, Message]]:
    batches = lines(io.BytesIO(text.encode()), topic, options or MessageOptions(), "events.jsonl")
    return [pair for batch in batches for pair in batch]


class TestBuild:
    def test_a_cloud_event_goes_as_it_is(self) -> None:
        message = build(EVENT, "cloudevents", MessageOptions(key="k", headers=(("a", "1"),)), "order.json")
        assert (message.body, message.key) == (EVENT, b"k")
        assert message.headers == (("a", b"1"), ("content-type", b"application/cloudevents+json"))

    def test_data_is_wrapped_so_that_the_codec_reads_it(self) -> None:
        message = build(
            b'{"total": 118059162071741130342400}', "cloudevents", MessageOptions("order.created", "7", "k"), "x"
        )
        envelope = codecs.get("cloudevents").decode(message, HERE)
        assert (envelope.id, envelope.type, envelope.source, envelope.key) == ("7", "order.created", "bridge-cli", "k")
        assert envelope.data == {"total": 118059162071741130342400}
        assert envelope.time is not None

    def test_ids_are_random(self) -> None:
        first, second = (build(b"1", None, MessageOptions("t"), "x").body or b"" for _ in range(2))
        assert json.loads(first)["id"] != json.loads(second)["id"]

    @pytest.mark.parametrize(("body", "data"), [(b"plain words", "plain words"), (b"\xff\x00", b"\xff\x00"), (b"3", 3)])
    def test_any_data_can_be_wrapped(self, body: bytes, data: Any) -> None:
        message = build(body, "cloudevents", MessageOptions("t"), "x")
        assert codecs.get("cloudevents").decode(message, HERE).data == data

    def test_broken_json_is_not_taken_for_text(self) -> None:
        with pytest.raises(DecodeError, match=r"order\.json is not valid JSON: .*line 2"):
            build(b'{"id": 1,\n "total": }', "cloudevents", MessageOptions("t"), "order.json")

    def test_what_the_source_would_refuse_is_refused_here_with_the_remedy(self) -> None:
        with pytest.raises(DecodeError, match=r"order\.json is not a CloudEvent.*--type.*--raw"):
            build(b'{"id": 1}', "cloudevents", MessageOptions(), "order.json")

    def test_raw_sends_anything(self) -> None:
        assert build(b"{broken", "cloudevents", MessageOptions(raw=True), "x").body == b"{broken"
        assert build(EVENT, "cloudevents", MessageOptions(raw=True), "x").headers == ()

    def test_binary_mode_is_told_by_its_headers(self) -> None:
        assert build(b'{"id": 1}', "cloudevents", MessageOptions(headers=(("ce_type", "t"),)), "x").body == b'{"id": 1}'

    def test_other_codecs_and_unknown_readers_get_the_data_as_it_is(self) -> None:
        assert build(b'{"id": 1}', "json", MessageOptions(), "x") == Message(b'{"id": 1}')
        assert build(b'{"id": 1}', None, MessageOptions(), "x") == Message(b'{"id": 1}')

    def test_a_type_is_nothing_that_plain_json_carries(self) -> None:
        with pytest.raises(DecodeError, match="reads json"):
            build(b"{}", "json", MessageOptions("order.created"), "x")

    @pytest.mark.parametrize("options", [MessageOptions(type="t"), MessageOptions(id="7")])
    def test_a_cloud_event_is_not_wrapped_again(self, options: MessageOptions) -> None:
        with pytest.raises(DecodeError, match="is a CloudEvent already"):
            build(EVENT, "cloudevents", options, "x")

    def test_the_partition_key_is_the_key(self) -> None:
        body = EVENT.replace(b'"data"', b'"partitionkey": "1001", "data"')
        assert build(body, "cloudevents", MessageOptions(), "x").key == b"1001"
        assert build(body, "cloudevents", MessageOptions(key="mine"), "x").key == b"mine"


class TestLines:
    def test_bodies_go_as_they_are_written(self) -> None:
        bodies = ['{"a": 1180591620717411303424, "b": 1.10, "b": 2}', '"text \\u00e9"', "null", "[1, 2]", "7.0", '""']
        found = read("\n".join(f'{{"body": {body}}}' for body in bodies))
        assert [message.body for _, message in found] == [
            b'{"a": 1180591620717411303424, "b": 1.10, "b": 2}', "text é".encode(), None, b"[1, 2]", b"7.0", b"",
        ]  # fmt: skip

    def test_key_headers_and_topic(self) -> None:
        [(topic, message)] = read('{"body": 1, "key": "k", "headers": {"a": "1"}, "topic": "orders"}', None)
        assert (topic, message.key, message.headers) == ("orders", b"k", (("a", b"1"),))

    def test_options_are_for_lines_that_say_nothing_else(self) -> None:
        options = MessageOptions(key="k", headers=(("a", "1"), ("b", "2")))
        found = read('{"body": 1}\n{"body": 1, "key": "own", "headers": {"a": "own"}}', options=options)
        assert found[0][1] == Message(b"1", b"k", (("a", b"1"), ("b", b"2")))
        assert found[1][1] == Message(b"1", b"own", (("b", b"2"), ("a", b"own")))

    def test_cloud_events_go_as_they_are(self) -> None:
        [(topic, message)] = read(f"  {EVENT.decode()}  ")
        assert (topic, message.body) == ("orders", EVENT)
        assert header(message, "content-type") == [b"application/cloudevents+json"]

    def test_order_is_kept_over_many_reads(self) -> None:
        text = "".join(f'{{"body": {number}, "headers": {{"pad": "{"x" * 200}"}}}}\n\n' for number in range(5000))
        assert [int(message.body or b"") for _, message in read(text)] == list(range(5000))

    def test_what_can_be_read_is_not_held_back(self) -> None:
        class Slow(io.RawIOBase):
            """Input that yields one line at a time, like a person at a pipe."""

            given = iter((b'{"body": 1}\n', b'{"bo', b'dy": 2}\n{"body": 3}'))

            def read(self, size: int = -1) -> bytes:
                return next(self.given, b"")

        batches = lines(Slow(), "orders", MessageOptions(), "stdin")  # type: ignore[arg-type]  # a stream by its behaviour
        assert [[message.body for _, message in batch] for batch in batches] == [[b"1"], [b"2"], [b"3"]]

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            ("{broken", "the line is not valid JSON"),
            ("[1]", "expected a CloudEvent"),
            ('{"id": 1}', "expected a CloudEvent"),
            ('{"body": 1, "kee": "k"}', "unknown member 'kee'; known: body, headers, key, topic"),
            ('{"body": 1, "key": 7}', "key must be text"),
            ('{"body": 1, "headers": {"a": 1}}', "headers must be an object of texts"),
            ('{"body": 1, "topic": "other"}', "names another topic than orders"),
            ('{"body": "\\ud800"}', "not valid JSON"),
            ("[" * 10_000, "deeper"),
        ],
    )
    def test_a_bad_line_is_named_and_everything_before_it_is_given(self, line: str, what: str) -> None:
        given: list[bytes | None] = []
        text = f'{{"body": 1}}\n\n{{"body": 2}}\n{line}\n{{"body": 4}}\n'

        def collect() -> None:
            for batch in lines(io.BytesIO(text.encode()), "orders", MessageOptions(), "events.jsonl"):
                given.extend(message.body for _, message in batch)

        with pytest.raises(DecodeError, match=rf"^events\.jsonl:4: .*{what}"):
            collect()
        assert given == [b"1", b"2"]

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            ('{"body": 1}', 'needs a "topic"'),
            (EVENT.decode(), 'needs a "topic"'),
            ('{"body": 1, "topic": "a b"}', "the name of a topic or group"),
            ('{"body": 1, "topic": 7}', "topic must be text"),
        ],
    )
    def test_with_only_a_broker_every_line_names_its_topic(self, line: str, what: str) -> None:
        with pytest.raises(DecodeError, match=what):
            read(line, None)

    def test_errors_never_quote_the_payload(self) -> None:
        with pytest.raises(DecodeError) as caught:
            read('{"body": "secret", "headers": {"a": secret}}')
        assert "secret" not in str(caught.value)
