"""Answers of a broken or hostile registry: each is an outage, or an unusable schema."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.codecs.confluent import AVRO, PROTOBUF, Registry, RegistryCodec, SchemaChooser, SchemaFormat, schema_cache
from bridge.codecs.confluent import registry as module
from bridge.codecs.confluent.wire import write
from bridge.config.model.registries import RegistryConfig
from bridge.core.errors import DecodeError, MessageError, RegistryUnavailable
from bridge.core.message import Message
from tests.codecs.confluent.samples import ORDER, POSITION, event, proto, proto_text
from tests.kit.examples import examples
from tests.kit.waiting import TIMEOUT
from tests.registry.hostile import Answer, HostileRegistry, answer, response

pytestmark = pytest.mark.long

LINE = '{"type": "record", "name": "shop.Line", "fields": [{"name": "sku", "type": "string"}]}'
BODY = b"\x02a"
F = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEW_SCHEMA_PAUSES", ())


@contextmanager
def hostile(first: Answer, others: Answer = b"") -> Iterator[HostileRegistry]:
    """Create a registry. first: answer for an id or the latest schema of a subject. others: answer for a version."""
    server = HostileRegistry(
        lambda path: first if "/schemas/" in path or path.endswith(("latest", "latest?format=serialized")) else others
    )
    try:
        yield server
    finally:
        server.close()


async def outcome(server: HostileRegistry, form: SchemaFormat = AVRO, body: bytes = BODY, **config: Any) -> str:
    """Return the result of one message, and of one event written with the latest schema of a subject."""
    settings_ = {"url": server.url, "timeout": "2s"} | config
    registry = Registry("main", RegistryConfig.model_validate(settings_), lambda field, value: None)
    try:
        reading = RegistryCodec("reading", form, registry)
        writing = RegistryCodec("writing", form, registry, chooser=SchemaChooser(registry, form, topic="t"))
        with suppress(MessageError, RegistryUnavailable):
            await writing.prepare_encode(event({"sku": "a"}))
            writing.encode(event({"sku": "a"}))
        message = Message(write(7, (0,) if form.indexed else None) + body)
        try:
            await reading.prepare_decode([message])
            reading.decode(message, POSITION)
        except DecodeError as error:
            return f"refused: {error}"
        except RegistryUnavailable as error:
            return f"away: {error}"
        return "read"
    finally:
        await registry.close()


def schema(text: Any, **more: Any) -> bytes:
    return answer({"schema": text, "id": 7, "subject": "s", "version": 1} | more)


def deep(levels: int) -> str:
    return '{"type":"array","items":' * levels + '"long"' + "}" * levels


def refer(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "subject": name, "version": 1} for name in names]


@pytest.mark.parametrize(
    ("first", "others", "expected"),
    [
        (answer({"error_code": 42203, "message": "no"}, 422), b"", "refused"),
        (answer({"error_code": 40901, "message": "no"}, 409), b"", "refused"),
        (answer({"error_code": [40403]}, 404), b"", "away"),
        (answer({"error_code": {"a": 1}}, 404), b"", "away"),
        (answer({"error_code": 40403}, 404), b"", "refused"),
        (answer([1], 404), b"", "away"),
        (response(b"[" * 200_000, 404), b"", "away"),
        (response(b"[" * 200_000), b"", "away"),
        (response(b"\xff\xfe{"), b"", "away"),
        (response(b""), b"", "away"),
        (response(b"", 204), b"", "away"),
        (response(b"{}", 200, length=100), b"", "away"),
        (b"no HTTP at all\r\n\r\n", b"", "away"),
        (b"", b"", "away"),
        (answer(None), b"", "away"),
        (answer([]), b"", "away"),
        (answer({}), b"", "away"),
        (schema(7), b"", "away"),
        (schema(LINE, schemaType=["AVRO"]), b"", "away"),
        (schema(LINE, schemaType="x" * 100_000), b"", "refused"),
        (schema(LINE, references=[1]), b"", "away"),
        (schema(LINE, references=[{"name": ["a"], "subject": {}, "version": "x"}]), b"", "away"),
        (schema(LINE, references=refer("shop.Line")), schema(LINE, references=refer("shop.Line")), "read"),
        (schema('"string"', references=refer("n")), schema('"long"', references=refer("n")), "read"),
        (schema('"a"', references=refer("a", "b")), schema('"b"', references=refer("b", "a")), "refused"),
        (schema(LINE, references=refer(*(f"n{at}" for at in range(150)))), schema('"long"'), "refused"),
        (schema(LINE, references=refer("n")), answer({"error_code": 42203}, 422), "refused"),
        (schema(LINE, references=refer("n")), answer([]), "away"),
        (schema(deep(50)), b"", "refused"),
        (schema(deep(5_000)), b"", "refused"),
        (schema('{"type": "fixed", "name": "F", "size": 1' + "0" * 400 + "}"), b"", "refused"),
        (schema('{"type": "fixed", "name": "F", "size": "x", "logicalType": "decimal"}'), b"", "refused"),
        (schema('{"type": "fixed", "name": "F", "size": -1}'), b"", "refused"),
        (schema('{"type": "enum", "name": "E", "symbols": 7}'), b"", "refused"),
        (schema('{"type": "enum", "name": "E", "symbols": [7, 7]}'), b"", "refused"),
        (schema('{"type": "bytes", "logicalType": "decimal", "precision": 1' + "0" * 400 + "}"), b"", "read"),
        (schema('{"type": "record", "name": "R", "fields": [{"name": ["a"], "type": "long"}]}'), b"", "refused"),
        (schema('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "R"}]}'), b"", "refused"),
        (schema("no JSON"), b"", "refused"),
        (schema("\ud800"), b"", "refused"),
        (schema(" " * 1_100_000 + LINE), b"", "refused"),
        (response(b"[" + b"1," * 20_000_000), b"", "refused"),
        (response(gzip.compress(b" " * 100_000_000), 200, "Content-Encoding: gzip"), b"", "away"),
        (response(b"", 302, "Location: http://127.0.0.1:1/elsewhere"), b"", "away"),
        (response(b"", 301, "Location: file:///etc/passwd"), b"", "away"),
    ],
)  # fmt: skip
async def test_an_answer_is_an_outage_or_a_refusal(first: Answer, others: Answer, expected: str) -> None:
    with hostile(first, others) as server:
        found = await outcome(server)
    assert found.startswith(expected), found
    assert len(found) < 400


async def test_answers_are_bounded_in_size_before_they_are_parsed() -> None:
    with hostile(schema(LINE)) as server:
        assert await outcome(server) == "read"
        found = await outcome(server, max_schema=50)
        assert "larger than the 50 bytes that its max_schema allows" in found
    endless: Answer = [response(b"", length=10**12)[:-4] + b"\r\n\r\n", *([b"[" * 1_000_000] * 100)]
    with hostile(endless) as server:
        assert "max_schema" in await outcome(server)
    # All of them together
    with hostile(schema('"n0"', references=refer(*(f"n{at}" for at in range(9)))), schema('"l"' + " " * 900)) as server:
        assert "max_schema" in await outcome(server, max_schema=5_000)


async def test_a_slow_drip_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    drip: Answer = [
        response(b"", length=1000)[:-4] + b"\r\n\r\n",
        *(part for _ in range(1000) for part in (b" ", 0.05)),
    ]
    with hostile(drip) as server:
        async with asyncio.timeout(TIMEOUT):
            assert "no answer in time" in await outcome(server, timeout="300ms")
    slow: Answer = [0.2, schema('"long"')]
    with hostile(schema(LINE, references=refer(*(f"n{at}" for at in range(90)))), slow) as server:
        async with asyncio.timeout(TIMEOUT):
            assert "no answer in time" in await outcome(server, timeout="300ms")


def protobuf_file(*imports: str, name: str = "a.proto") -> str:
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3", dependency=imports)
    file.message_type.add(name="M").field.add(name="sku", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    return base64.b64encode(file.SerializeToString()).decode()


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (schema(protobuf_file("b.proto"), schemaType="PROTOBUF", references=refer("b.proto")),
         schema(protobuf_file("b.proto"), schemaType="PROTOBUF")),
        (schema(protobuf_file("b.proto", "c.proto"), schemaType="PROTOBUF", references=refer("b.proto", "c.proto")),
         schema(protobuf_file("b.proto", "c.proto"), schemaType="PROTOBUF")),
        (schema(protobuf_file("bridge/main.proto"), schemaType="PROTOBUF"), b""),
        (schema(protobuf_file("google/x.proto", "google//a.proto"), schemaType="PROTOBUF"), b""),
        (schema(protobuf_file("confluent/../x.proto"), schemaType="PROTOBUF"), b""),
        (schema(protobuf_file(), schemaType="PROTOBUF", references=refer("bridge/main.proto")),
         schema(protobuf_file("bridge/main.proto"), schemaType="PROTOBUF")),
        (schema("%%%", schemaType="PROTOBUF"), b""),
        (schema(base64.b64encode(b"\x0a" * 1000).decode(), schemaType="PROTOBUF"), b""),
        (schema("", schemaType="PROTOBUF"), b""),
    ],
)  # fmt: skip
async def test_files_of_protobuf_that_cannot_be_used(first: Answer, others: Answer) -> None:
    with hostile(first, others) as server:
        assert (await outcome(server, PROTOBUF)).startswith("refused")


async def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_cache, "BYTES", 3_000)
    with hostile(schema(LINE + " " * 900)) as server:
        registry = Registry("main", RegistryConfig(url=server.url), lambda field, value: None)
        codec = RegistryCodec("avro", AVRO, registry)
        for number in range(10):
            await codec.prepare_decode([Message(write(number, None) + BODY)])
        assert list(codec._schemas._known) == [7, 8, 9]
        many = [Message(write(number, None) + BODY) for number in range(20, 30)]
        await codec.prepare_decode(many)
        assert [codec.decode(message, POSITION).data for message in many] == [{"sku": "a"}] * 10
        await registry.close()


async def test_defaults_that_double_are_refused() -> None:
    fields: list[Any] = [{"name": "v", "type": "long", "default": 1}]
    kind: dict[str, Any] = {"type": "record", "name": "R0", "fields": fields}
    for at in range(1, 40):
        fields = [{"name": "a", "type": kind, "default": {}}, {"name": "b", "type": f"R{at - 1}", "default": {}}]
        kind = {"type": "record", "name": f"R{at}", "fields": fields}
    with hostile(schema(json.dumps(kind))) as server:
        registry = Registry("main", RegistryConfig(url=server.url), lambda field, value: None)
        codec = RegistryCodec("avro", AVRO, registry, chooser=SchemaChooser(registry, AVRO, topic="t"))
        await codec.prepare_encode(event({}))
        with pytest.raises(DecodeError, match="default"):
            codec.encode(event({}))
        await registry.close()


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-2, 9)
    | st.floats() | st.text(max_size=6)
    | st.sampled_from([LINE, "AVRO", "PROTOBUF", "JSON", '"long"', "record", "fixed", "enum", "R", "bytes", 10**30])
)  # fmt: skip
KEYS = st.sampled_from([
    "schema", "schemaType", "references", "name", "subject", "version", "id", "guid", "metadata", "ruleSet", "type",
    "size", "items", "values", "fields", "symbols", "logicalType", "precision", "scale", "default", "error_code",
    "namespace",
]) | st.text(max_size=3)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=5), max_leaves=12
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Generate the value with one part changed, at any depth, also inside JSON text."""
    choice = draw(st.integers(0, 5))
    if choice == 0:
        return draw(ANYTHING)
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if choice == 1 else rest | {key: draw(changed(value[key]))}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        return value * 2 if choice == 1 else [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    if isinstance(value, str) and value.startswith(("{", "[")):
        return json.dumps(draw(changed(json.loads(value))))
    return draw(ANYTHING)


@st.composite
def answers(draw: st.DrawFn, protobuf: bool) -> bytes:
    if protobuf:
        raw = bytearray(proto().SerializeToString())
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(raw)))
            raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        good = {"schema": base64.b64encode(raw).decode(), "schemaType": "PROTOBUF"}
    else:
        good = {"schema": draw(st.sampled_from([ORDER, LINE])), "schemaType": "AVRO"}
    good |= {"id": 7, "subject": "s", "version": 1, "guid": None}  # type: ignore[dict-item]  # wider than its annotation, on purpose
    good["references"] = refer("r") if draw(st.booleans()) else []  # type: ignore[assignment]  # wider than its annotation, on purpose
    body = json.dumps(draw(changed(good)) if draw(st.booleans()) else good).encode()
    status = draw(st.sampled_from([200] * 8 + [204, 301, 400, 404, 409, 422, 429, 500, 503]))
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]
    return response(body, status)


async def _tried(first: bytes, others: bytes, protobuf: bool, body: bytes) -> None:
    with hostile(first, others) as server:
        found = await outcome(server, PROTOBUF if protobuf else AVRO, body)
    assert found == "read" or found.startswith(("refused: ", "away: "))


FUZZ = st.booleans().flatmap(
    lambda protobuf: st.tuples(answers(protobuf), answers(protobuf), st.just(protobuf), st.binary(max_size=20))
)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=examples(60))
@given(FUZZ)
def test_any_answer_is_an_outage_or_a_refusal(found: tuple[bytes, bytes, bool, bytes]) -> None:
    asyncio.run(_tried(*found))


@pytest.mark.prove
@pytest.mark.timeout(1800)
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=3_000)
@given(FUZZ)
def test_any_answer_for_long(found: tuple[bytes, bytes, bool, bytes]) -> None:
    asyncio.run(_tried(*found))


def test_the_samples_are_read() -> None:
    for form, text, kind in ((AVRO, LINE, "AVRO"), (PROTOBUF, proto_text(), "PROTOBUF")):
        with hostile(schema(text, schemaType=kind)) as server:
            assert asyncio.run(outcome(server, form, BODY if kind == "AVRO" else b"")) == "read"


CREDENTIALS = [{"username": "u", "password": "secret"}, {"token": "secret", "logical_cluster": "l"}]


@pytest.mark.parametrize("credentials", CREDENTIALS, ids=["password", "token"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("form", "body"), [(AVRO, BODY), (PROTOBUF, b"")], ids=["avro", "protobuf"])
async def test_no_redirect_is_followed_to_another_host(
    credentials: dict[str, str], status: int, form: SchemaFormat, body: bytes
) -> None:
    good = schema(LINE) if form is AVRO else schema(proto_text(), schemaType="PROTOBUF")
    with hostile(good, good) as second:
        elsewhere = response(b"{}", status, f"Location: {second.url}/schemas/ids/7", "Refresh: 0; url=" + second.url)
        with hostile(elsewhere, elsewhere) as first:
            found = await outcome(first, form, body, **credentials)
            assert found.startswith("away"), found
            assert "secret" not in found
            assert b"uthorization: " in first.heads[0]
        assert second.asked == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_storm_of_refusals_is_an_outage_at_once(status: int) -> None:
    refusal = response(b"{}", status, "Retry-After: 99999999999")
    with hostile(refusal, refusal) as server:
        async with asyncio.timeout(TIMEOUT):
            assert (await outcome(server, timeout="60s")).startswith("away")
        # One for the message and one for the event: the pipeline's back-off decides when the next follows
        assert len(server.asked) == 2


async def test_cookies_of_a_registry_are_not_kept() -> None:
    cookies = [f"Set-Cookie: c{number}={'x' * 3000}; Path=/" for number in range(20)]
    body = json.dumps({"schema": LINE, "id": 7, "subject": "s", "version": 1}).encode()
    with hostile(response(body, 200, *cookies)) as server:
        assert await outcome(server) == "read"
        assert len(server.heads) == 2
        assert not any(b"ookie:" in head for head in server.heads)


async def test_an_id_keeps_its_first_meaning_while_it_is_cached() -> None:
    texts = ['{"type": "record", "name": "A", "fields": [{"name": "a", "type": "string"}]}', LINE]
    server = HostileRegistry(lambda _: schema(texts.pop(0)))
    registry = Registry("main", RegistryConfig(url=server.url), lambda field, value: None)
    try:
        codec = RegistryCodec("avro", AVRO, registry)
        message = Message(write(7, None) + BODY)
        for _ in range(2):
            await codec.prepare_decode([message])
            assert codec.decode(message, POSITION).data == {"a": "a"}
        assert len(server.asked) == 1
    finally:
        await registry.close()
        server.close()
