"""Interpretation of registry answers, and of missing answers."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from bridge.codecs.confluent import AVRO, PROTOBUF, Registry, RegistryCodec, SchemaChooser, schema_cache
from bridge.codecs.confluent import registry as module
from bridge.codecs.confluent.wire import write
from bridge.core.errors import DecodeError, RegistryUnavailable, SchemaError
from bridge.core.message import Message
from tests.codecs.confluent.conftest import MakeRegistry
from tests.codecs.confluent.samples import ORDER, ORDER_DATA, POSITION, event, proto_set, proto_text
from tests.kafka.certificates import Authority
from tests.registry import RegistryServer

LINE = '{"type": "record", "name": "shop.Line", "fields": [{"name": "sku", "type": "string"}]}'
LINE_DATA = b"\x02a"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEW_SCHEMA_PAUSES", (0.01, 0.02))


async def read(registry: Registry, *messages: Message) -> list[object]:
    codec = RegistryCodec("avro", AVRO, registry)
    await codec.prepare_decode(messages)
    return [codec.decode(message, POSITION).data for message in messages]


async def test_a_schema_is_asked_for_once(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", LINE)
    codec = RegistryCodec("avro", AVRO, registry)
    message = Message(write(number, None) + LINE_DATA, headers=(("h", b"1"),))
    for _ in range(3):
        await codec.prepare_decode([message] * 50)
        envelope = codec.decode(message, POSITION)
        assert (envelope.data, envelope.headers, envelope.datacontenttype) == (
            {"sku": "a"}, {"h": "1"}, "application/avro",
        )  # fmt: skip
    assert server.asked == [f"GET /schemas/ids/{number}"]


async def test_by_guid(server: RegistryServer, registry: Registry) -> None:
    guid = server.guid(server.register("orders-value", LINE))
    assert await read(registry, Message(write(guid, None) + LINE_DATA)) == [{"sku": "a"}]


async def test_attributes_of_cloudevents_are_headers(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", LINE)
    codec = RegistryCodec("avro", AVRO, registry)
    attributes = {"specversion": "1.0", "id": "e-1", "source": "/s", "type": "line.added", "tenant": "t"}
    headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
    message = Message(write(number, None) + LINE_DATA, headers=headers)
    await codec.prepare_decode([message])
    envelope = codec.decode(message, POSITION)
    assert (envelope.message_id, envelope.type, envelope.extensions) == (
        "/s e-1", "line.added", {"tenant": "t", "schemaid": str(number), "recordname": "shop.Line"},
    )  # fmt: skip
    tombstone = codec.decode(Message(None, headers=headers), POSITION)
    assert (tombstone.data, tombstone.type) == (None, "line.added")


async def test_references_are_fetched_with_what_they_refer_to(server: RegistryServer, registry: Registry) -> None:
    server.register("line", LINE)
    refer = [{"name": "shop.Line", "subject": "line", "version": 1}]
    server.register("lines", '{"type": "record", "name": "shop.Lines", "fields": [{"name": "all", "type": '
                    '{"type": "array", "items": "shop.Line"}}]}', references=refer)  # fmt: skip
    refer = [{"name": "shop.Lines", "subject": "lines", "version": 1}]
    number = server.register("orders-value", '["null", "shop.Lines"]', references=refer)
    message = Message(write(number, None) + b"\x02\x02" + LINE_DATA + b"\x00")
    assert await read(registry, message) == [{"all": [{"sku": "a"}]}]


async def test_an_unknown_id_is_asked_for_again_and_then_judged(server: RegistryServer, registry: Registry) -> None:
    """A follower of the registry's leader may learn of a new schema late."""
    codec = RegistryCodec("avro", AVRO, registry)
    message = Message(write(7, None) + LINE_DATA)
    await codec.prepare_decode([message])
    assert server.asked == ["GET /schemas/ids/7"] * 3
    for _ in range(2):
        await codec.prepare_decode([message])
        with pytest.raises(DecodeError, match="registry main does not have schema 7"):
            codec.decode(message, POSITION)
    assert len(server.asked) == 3


async def test_what_was_unknown_may_be_registered_later(
    server: RegistryServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_cache, "_FORGET", 0.0)
    codec = RegistryCodec("avro", AVRO, registry)
    message = Message(write(1, None) + LINE_DATA)
    await codec.prepare_decode([message])
    server.register("orders-value", LINE)
    await codec.prepare_decode([message])
    assert codec.decode(message, POSITION).data == {"sku": "a"}


async def test_what_is_kept_is_bounded(
    server: RegistryServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_cache, "CAPACITY", 3)
    codec = RegistryCodec("avro", AVRO, registry)
    for number in range(1, 7):
        server.register("s", f'{{"type": "fixed", "name": "F", "size": {number}}}')
        await codec.prepare_decode([Message(write(number, None)), Message(write(number + 100, None))])
    assert list(codec._schemas._known) == [4, 5, 6]
    assert len(codec._schemas._unusable) == 3


async def test_a_schema_of_another_kind_is_told(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", '{"type": "object"}', "JSON")
    with pytest.raises(DecodeError, match=f"schema {number} of registry main is JSON"):
        await read(registry, Message(write(number, None) + LINE_DATA))


@pytest.mark.parametrize("status", [500, 503, 429, 404, 418])
async def test_any_other_answer_is_an_outage(server: RegistryServer, registry: Registry, status: int) -> None:
    """A 404 without the registry's own code comes from another server at that address."""
    number = server.register("orders-value", LINE)
    message = Message(write(number, None) + LINE_DATA)
    server.status = status
    with pytest.raises(RegistryUnavailable, match=f"HTTP {status}"):
        await read(registry, message)
    server.status = None
    assert await read(registry, message) == [{"sku": "a"}]


async def test_nobody_there_is_an_outage_until_somebody_is(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", LINE)
    message = Message(write(number, None) + LINE_DATA)
    server.stop()
    begun = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="registry main: nobody answers"):
        await read(registry, message)
    assert time.monotonic() - begun < 5
    server.start()
    assert await read(registry, message) == [{"sku": "a"}]


async def test_credentials(server: RegistryServer, connect: MakeRegistry) -> None:
    number = server.register("orders-value", LINE)
    message = Message(write(number, None) + LINE_DATA)
    server.authorization = "Basic " + base64.b64encode(b"me:se:cret").decode()
    assert await read(connect(server.url, username="me", password="se:cret"), message) == [{"sku": "a"}]
    with pytest.raises(RegistryUnavailable, match="refused the credentials") as received:
        await read(connect(server.url, username="me", password="wrong"), message)
    assert "wrong" not in str(received.value)
    server.authorization = "Bearer tok"
    assert await read(connect(server.url, token="tok"), message) == [{"sku": "a"}]
    cloud = connect(server.url, token="tok", logical_cluster="lsrc-1", identity_pool="pool-1")
    assert await read(cloud, message) == [{"sku": "a"}]


async def test_tls(tmp_path: Path, connect: MakeRegistry) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "somebody else")
    server = RegistryServer(authority.issue("server"))
    number = server.register("orders-value", LINE)
    message = Message(write(number, None) + LINE_DATA)
    try:
        assert await read(connect(server.url, tls={"ca": str(authority.file)}), message) == [{"sku": "a"}]
        for settings in ({}, {"tls": {"ca": str(other.file)}}):
            with pytest.raises(RegistryUnavailable, match=r"certificate is not trusted.*set `tls.ca`"):
                await read(connect(server.url, **settings), message)
    finally:
        server.close()


async def write_one(chooser: SchemaChooser, registry: Registry) -> Message:
    codec = RegistryCodec("avro", AVRO, registry, chooser=chooser)
    await codec.prepare_encode(event(ORDER_DATA))
    return codec.encode(event(ORDER_DATA))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "order.avsc").write_text(ORDER)
    return tmp_path / "order.avsc"


async def test_a_schema_of_our_own_must_be_registered(server: RegistryServer, registry: Registry, file: Path) -> None:
    def chooser(**more: object) -> SchemaChooser:
        return SchemaChooser(registry, AVRO, topic="orders", own=file, **more)  # type: ignore[arg-type]

    with pytest.raises(SchemaError, match=r"under the subject orders-value; register it, or set `auto_register: true`"):
        await write_one(chooser(), registry)
    first = await write_one(chooser(auto_register=True), registry)
    asked = len(server.asked)
    once = chooser()
    assert (await write_one(once, registry)).body == first.body
    assert (await write_one(once, registry)).body == first.body
    assert server.asked[asked:] == ["POST /subjects/orders-value"]


async def test_subjects_by_record(server: RegistryServer, registry: Registry, file: Path) -> None:
    for pattern, subject in (("{record}", "shop.Order"), ("{topic}-{record}", "orders-shop.Order")):
        chooser = SchemaChooser(
            registry, AVRO, topic="orders", own=file, subject=pattern, auto_register=True
        )  # fmt: skip
        await write_one(chooser, registry)
        assert server.asked[-1] == f"POST /subjects/{subject}/versions"


async def test_an_incompatible_schema_is_refused(server: RegistryServer, registry: Registry, file: Path) -> None:
    server.incompatible = True
    with pytest.raises(SchemaError, match="not compatible with earlier ones"):
        await write_one(SchemaChooser(registry, AVRO, topic="orders", own=file, auto_register=True), registry)


async def test_the_latest_of_the_subject(server: RegistryServer, registry: Registry) -> None:
    registry.latest_for = 0.0
    chooser = SchemaChooser(registry, AVRO, topic="orders")
    with pytest.raises(SchemaError, match="register one, or give the target a `schema`"):
        await write_one(chooser, registry)
    first = server.register("orders-value", ORDER)
    assert (await write_one(chooser, registry)).body[:5] == write(first, None)
    newer = json.loads(ORDER)
    newer["doc"] = "newer"
    second = server.register("orders-value", json.dumps(newer))
    assert (await write_one(chooser, registry)).body[:5] == write(second, None)
    server.stop()
    with pytest.raises(RegistryUnavailable):
        await write_one(chooser, registry)


async def test_a_tombstone_is_written_without_a_schema_id(registry: Registry, file: Path) -> None:
    codec = RegistryCodec(
        "avro", AVRO, registry, chooser=SchemaChooser(registry, AVRO, topic="o", own=file, auto_register=True)
    )
    await codec.prepare_encode(event(ORDER_DATA))
    assert codec.encode(event(None)).body is None


@pytest.mark.parametrize(
    ("content", "form", "what"),
    [
        (b"{", AVRO, "no Avro schema"),
        (b"\xff", AVRO, "is not UTF-8"),
        (b"\xff\xff", PROTOBUF, "is no descriptor set; make one: protoc"),
        (None, AVRO, "cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, registry: Registry, content: bytes | None, form: object, what: str
) -> None:
    path = tmp_path / "schema"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=what):
        SchemaChooser(registry, form, topic="orders", own=path)  # type: ignore[arg-type]  # a format


def test_a_descriptor_set_that_imports_others_is_told(tmp_path: Path, registry: Registry) -> None:
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(proto_set())
    files.file[0].dependency.append("shared/money.proto")
    (tmp_path / "order.desc").write_bytes(files.SerializeToString())
    with pytest.raises(DecodeError, match=r"imports shared/money\.proto"):
        SchemaChooser(registry, PROTOBUF, topic="orders", own=tmp_path / "order.desc")


async def test_the_latest_protobuf_names_its_message(server: RegistryServer, registry: Registry) -> None:
    server.register("orders-value", proto_text(), "PROTOBUF")
    chooser = SchemaChooser(registry, PROTOBUF, topic="orders", message="shop.Order")
    codec = RegistryCodec("protobuf", PROTOBUF, registry, chooser=chooser)
    await codec.prepare_encode(event(ORDER_DATA))
    assert codec.encode(event({"id": "a"})).body == b"\0\0\0\0\1\2\2" + b"\x0a\x01a"


BOTH = json.dumps([
    {"type": "record", "name": f"shop.{name}", "fields": [{"name": "id", "type": "string"}]}
    for name in ("Placed", "Cancelled")
])  # fmt: skip


async def test_record_name_and_schema_id_are_extensions(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", BOTH)
    guid = server.guid(number)
    codec = RegistryCodec("avro", AVRO, registry)
    plain = Message(write(number, None) + b"\x02\x02a")
    lying = tuple((f"ce_{name}", value) for name, value in (
        ("specversion", b"1.0"), ("id", b"1"), ("source", b"/s"), ("type", b"t"), ("recordname", b"shop.Placed"),
        ("schemaid", b"99"),
    ))  # fmt: skip
    event_ = Message(write(guid, None) + b"\x02\x02a", headers=lying)
    await codec.prepare_decode([plain, event_])
    assert codec.decode(plain, POSITION).extensions == {"recordname": "shop.Cancelled", "schemaid": str(number)}
    assert codec.decode(event_, POSITION).extensions == {"recordname": "shop.Cancelled", "schemaid": str(guid)}
    assert codec.decode(Message(None), POSITION).extensions == {}


async def test_an_event_chooses_its_record_and_schema(server: RegistryServer, registry: Registry) -> None:
    older = server.register("orders-value", BOTH)
    newest = server.register("orders-value", ORDER)
    codec = RegistryCodec("avro", AVRO, registry, chooser=SchemaChooser(registry, AVRO, topic="orders"))

    async def write_with(data: object, **extensions: str) -> Message:
        made = event(data, extensions=extensions)
        await codec.prepare_encode(made)
        return codec.encode(made)

    message = await write_with({"id": "a"}, schemaid=str(older), recordname="shop.Cancelled", tenant="t")
    assert message.body == write(older, None) + b"\x02\x02a"
    names = [name for name, _ in message.headers]
    assert "ce_tenant" in names
    assert not {"ce_schemaid", "ce_recordname"} & set(names)
    message = await write_with({"id": "a"}, schemaid=str(server.guid(older)), recordname="shop.Placed")
    assert message.body == write(server.guid(older), None) + b"\x00\x02a"
    assert (await write_with(ORDER_DATA, recordname="shop.Order")).body[:5] == write(newest, None)
    for extensions, what in (
        ({"recordname": "shop.Cancelled"}, r"has no shop\.Cancelled"),
        ({"schemaid": "x"}, "neither the number nor the GUID"),
        ({"schemaid": str(2**32)}, "neither the number nor the GUID"),
        ({"schemaid": "77"}, "does not have schema 77"),
    ):
        with pytest.raises(DecodeError, match=what):
            await write_with(ORDER_DATA, **extensions)


async def test_an_event_chooses_its_protobuf_message(server: RegistryServer, registry: Registry) -> None:
    server.register("orders-value", proto_text(), "PROTOBUF")
    codec = RegistryCodec("protobuf", PROTOBUF, registry, chooser=SchemaChooser(registry, PROTOBUF, topic="orders"))
    made = event({"sku": "a"}, extensions={"recordname": "shop.Order.Line"})
    await codec.prepare_encode(made)
    message = codec.encode(made)
    await codec.prepare_decode([message])
    read = codec.decode(message, POSITION)
    assert (read.data, read.extensions["recordname"]) == ({"sku": "a"}, "shop.Order.Line")


async def test_a_header_takes_the_guid_of_the_event(server: RegistryServer, registry: Registry) -> None:
    number = server.register("orders-value", LINE)
    chooser = SchemaChooser(registry, AVRO, topic="orders", place="header")
    codec = RegistryCodec("avro", AVRO, registry, chooser=chooser)
    made = event({"sku": "a"}, extensions={"schemaid": str(server.guid(number))})
    await codec.prepare_encode(made)
    assert dict(codec.encode(made).headers)["__value_schema_id"] == write(server.guid(number), None)
    made = event({"sku": "a"}, extensions={"schemaid": str(number)})
    await codec.prepare_encode(made)
    with pytest.raises(DecodeError, match="needs the GUID of the schema"):
        codec.encode(made)
