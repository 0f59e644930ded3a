"""Small bodies with a large decoded form, measured in separate processes: `python -m tests.codecs.confluent.bombs`.

The program prints JSON by the name of the body: the outcome (a reason word, or `decoded`), the least processor time of
three runs in seconds, and the peak of resident memory above the start, in MiB.
"""

from __future__ import annotations

import base64
import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2

from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.protobuf import ProtobufSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import parse_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError

LIMITS = LimitsConfig()
F = descriptor_pb2.FieldDescriptorProto
Bomb = tuple[str, Callable[[], Any]]
WELL_KNOWN = ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")


def zigzag(number: int) -> bytes:
    return varint(number << 1)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def avro(schema: Any, body: bytes) -> Callable[[], Any]:
    compiled = AvroSchema(RegisteredSchema(json.dumps(schema), "AVRO"))
    return lambda: compiled.decode(body, (), LIMITS)


def record(fields: list[Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"n{at}", "type": of} for at, of in enumerate(fields)]}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def items(count: int, one: bytes) -> bytes:
    return zigzag(count) + one * count + b"\0"


def avro_bombs() -> Iterator[Bomb]:
    wide = record(["boolean", *["null"] * 1000])
    yield "avro wide records of nulls", avro(array(wide), items(40_000, b"\1"))
    yield "avro nulls", avro(array("null"), zigzag(2**60) + b"\0")
    yield "avro negative count", avro(array("null"), b"\xff" * 9 + b"\1" + b"\0\0")
    yield "avro empty records", avro(array(record([])), zigzag(10**9) + b"\0")
    yield "avro empty fixed", avro(array({"type": "fixed", "name": "F", "size": 0}), zigzag(10**9) + b"\0")
    yield "avro large fixed", avro({"type": "fixed", "name": "F", "size": 2**40}, b"")
    yield "avro long text", avro("string", zigzag(2**40) + b"a")
    yield "avro maps", avro(array({"type": "map", "values": "null"}), items(300_000, b"\0"))
    nested: Any = "null"
    for _ in range(8):
        nested = array(nested)
    yield "avro nested arrays", avro(nested, zigzag(2**40) + (b"\2" * 6 + zigzag(2**40)) * 1000)
    doubled: Any = "null"
    for at in range(60):
        doubled = record([doubled, f"R{at - 1}" if at else "null"], f"R{at}")
    yield "avro records that double", avro(doubled, b"")
    chain = {"type": "record", "name": "C", "fields": [{"name": "next", "type": ["null", "C"]}]}
    yield "avro deep", avro(chain, b"\2" * 1_000_000 + b"\0")
    names = {"type": "record", "name": "R", "fields": [{"name": "n" * 100_000, "type": "boolean"}]}
    yield "avro long names", avro(array(names), items(45_000, b"\1"))
    symbols = {"type": "enum", "name": "E", "symbols": ["s" * 100_000]}
    yield "avro long symbols", avro(array(symbols), items(45_000, b"\0"))
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 10**9, "scale": 10**9}
    yield "avro decimal of a long scale", avro(decimal, b"\2\1")
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 4000, "scale": 4000}
    yield "avro decimals of a long scale", avro(array(decimal), items(45_000, b"\2\1"))
    yield "avro long decimals", avro(array(decimal), items(640, zigzag(1600) + b"\x7f" * 1600))
    yield "avro most floats", avro(array("float"), items(49_000, struct.pack("<f", 1.2345678e-20)))
    for unit in ("micros", "nanos"):
        stamp = {"type": "long", "logicalType": f"timestamp-{unit}"}
        yield f"avro most timestamps in {unit}", avro(array(["null", stamp]), items(49_000, b"\2" + zigzag(2**50 - 1)))
    time_of_day = {"type": "long", "logicalType": "time-micros"}
    yield "avro most times", avro(array(time_of_day), items(49_000, zigzag(86_399_999_999)))


def file() -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto(name="x.proto", syntax="proto3")
    found.dependency.extend(f"google/protobuf/{name}.proto" for name in WELL_KNOWN)
    root, wide, one_of = (found.message_type.add(name=name) for name in ("M", "Wide", "OneOf"))
    one_of.oneof_decl.add(name="of")
    for number in range(1, 1001):
        wide.field.add(name=f"f{number}", number=number, label=F.LABEL_OPTIONAL, type=F.TYPE_INT32)
        one_of.field.add(
            name=f"f{number}", number=number, label=F.LABEL_OPTIONAL, type=F.TYPE_INT32, oneof_index=0
        )  # fmt: skip
    kind = found.enum_type.add(name="E")
    kind.value.add(name="e" * 10_000, number=0)
    for number, (of, name) in enumerate(
        [(F.TYPE_MESSAGE, ".Wide"), (F.TYPE_MESSAGE, ".OneOf"), (F.TYPE_MESSAGE, ".M"), (F.TYPE_BOOL, None),
         (F.TYPE_FLOAT, None), (F.TYPE_ENUM, ".E"), (F.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
         (F.TYPE_MESSAGE, ".google.protobuf.Struct"), (F.TYPE_MESSAGE, ".google.protobuf.Any"),
         (F.TYPE_MESSAGE, ".google.protobuf.FieldMask"), (F.TYPE_MESSAGE, ".google.protobuf.ListValue")], 1,
    ):  # fmt: skip
        root.field.add(name=f"m{number}", number=number, label=F.LABEL_REPEATED, type=of, type_name=name)
    return found


def inside(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def protobuf_bombs() -> Iterator[Bomb]:
    text = base64.b64encode(file().SerializeToString()).decode()
    schema = ProtobufSchema(RegisteredSchema(text, "PROTOBUF"), "M")
    bodies = {
        "wide messages": inside(1, b"") * 300_000,
        "wide messages of a oneof": inside(2, b"") * 300_000,
        "empty messages": inside(3, b"") * 300_000,
        "packed": inside(4, b"\1" * 1_000_000),
        "not packed": b"\x20\1" * 500_000,
        "long symbols": inside(6, b"\0" * 45_000),
        "unknown fields": inside(100, b"") * 300_000,
        "unknown groups": b"\xa3\6\xa4\6" * 250_000,
        "deep groups": b"\xa3\6" * 500_000,
        "most floats": inside(5, struct.pack("<f", 1.2345678e-20) * 49_000),
        "most timestamps": inside(7, b"\x08\1\x10\1") * 12_000,
        "timestamps": inside(7, b"\x08\1\x10\1") * 150_000,
        "masks": inside(10, inside(1, b"a_b" * 300_000)),
        "values": inside(11, inside(1, b"\x20\1") * 20) * 700,
    }
    deep = b""
    for _ in range(90):
        deep = inside(3, deep)
    bodies["deep messages"] = deep * 2_000
    packed = inside(8, b"")
    for _ in range(60):
        packed = inside(9, inside(1, b"x/M") + inside(2, packed))
    bodies["any in any"] = packed * 500
    for name, body in bodies.items():
        yield f"protobuf {name}", lambda body=body: schema.decode(body, (0,), LIMITS)  # type: ignore[misc]  # mypy cannot infer lambdas with defaults


def json_bombs() -> Iterator[Bomb]:
    bodies = {
        "arrays": b"[" + b"[]," * 340_000 + b"[]]",
        "objects": b"[" + b'{"":{}},' * 130_000 + b"{}]",
        "members": b"{" + b",".join(b'"%d":0' % at for at in range(49_000)) + b"}",
        "long integers": b"[" + b"1" * 300 + (b"," + b"1" * 300) * 3_400 + b"]",
        "escapes": b'["' + b"\\u0041" * 170_000 + b'"]',
        "quotes": b'["' + b'\\",[' * 250_000 + b'"]',
    }
    for name, body in bodies.items():
        yield f"json {name}", lambda body=body: parse_json(body, LIMITS)  # type: ignore[misc]  # mypy cannot infer lambdas with defaults


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    bombs = [*avro_bombs(), *protobuf_bombs(), *json_bombs()]
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    before = _peak()
    found = {}
    for name, decode in bombs:
        times = []
        for _ in range(3):
            start = time.thread_time()
            try:
                decode()
                outcome = "decoded"
            except DecodeError as error:
                outcome = error.reason
            except MemoryError:
                outcome = "memory"
            times.append(time.thread_time() - start)
        found[name] = (outcome, min(times), (_peak() - before) // 1024)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
