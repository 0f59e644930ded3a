"""An object writes only its own attributes. Two exceptions: records that a module itself defines, and libraries.

Brokers have a stricter rule: tests/brokers/test_structure.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor
from opentelemetry.proto.metrics.v1 import metrics_pb2

from tests.kit.source import trees, walk

RECORDS = ("sqlite_engine/hub/", "sqlite_engine/storage/counts.py", "sqlite_engine/storage/store.py")
"""Modules that may write the records of the hub; see the docstring of `bridge.sqlite_engine.hub`."""
RECORD_NAMES = ("instance.", "entity.")

LIBRARIES = {
    "app/page/site.py": {"made.filters"},
    "brokers/kafka/security.py": {"context.check_hostname"},
    "brokers/servicebus/amqp/copies.py": {"amqp.encoded"},
    "brokers/servicebus/amqp/messages.py": {"sent.message_id", "properties.message_id"},
    "cli/shared/completion.py": {"parameter.type"},
    "codecs/confluent/protobuf_values.py": {"message.value"},
    "lint/contexts.py": {"function.body"},
    "ops/tracebacks.py": {"record.args"},
    "testing/fixtures/report.py": {"failure.text"},
}
"""Attributes of objects of libraries, which offer them for writing, by module."""


def members(file: FileDescriptor) -> Iterator[str]:
    """Names of the fields of all messages of a protocol."""
    found = [*file.message_types_by_name.values()]
    while found:
        message = found.pop()
        yield from message.fields_by_name
        found += message.nested_types


PROTOCOLS = frozenset(
    name for module in (pb, metrics_pb2, timestamp_pb2, wrappers_pb2) for name in members(module.DESCRIPTOR)
)


def owned(tree: ast.AST) -> set[str]:
    """Attributes of the classes that a module defines."""
    found = set()
    for kind in walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        for node in walk(kind):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.add(name)
        for node in kind.body:
            match node:
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    found.add(name)
    return found


def foreign_writes(tree: ast.AST, foreign: set[str]) -> Iterator[str]:
    """Writes to attributes of other objects. foreign: attributes of the classes of other modules alone."""
    for node in walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name, ctx=ast.Store() | ast.Del()) if name in foreign:
                if not (isinstance(value, ast.Name) and value.id in ("self", "cls")):
                    yield ast.unparse(node)


def is_record(path: Path, text: str) -> bool:
    return path.as_posix().startswith(RECORDS) and text.startswith(RECORD_NAMES)


def test_nobody_writes_the_attributes_of_another_object() -> None:
    modules = [(path, tree, owned(tree)) for path, tree in trees() if path.name != "sdk_internals.py"]
    known = set().union(*(own for _, _, own in modules))
    found = [
        f"{path}: {text}"
        for path, tree, own in modules
        for text in foreign_writes(tree, known - own)
        if text.rpartition(".")[2] not in PROTOCOLS
        and not is_record(path, text)
        and text not in LIBRARIES.get(path.as_posix(), ())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lease.size = 1", ["lease.size"]),
        ("stream.free[0], stream.size = 1, 2", ["stream.size"]),
        ("lease.size += 1", ["lease.size"]),
        ("del lease.size", ["lease.size"]),
        ("class Lease:\n    size = 0\nlease.size = 1", []),
        ("class Lease:\n    def f(self):\n        self.size = 1\nlease.size = 1", []),
        ("class Lease:\n    def f(self):\n        self.size = 1", []),
        ("lease.other = 1", []),
    ],
)
def test_foreign_writes_are_found(text: str, found: list[str]) -> None:
    tree = ast.parse(text)
    assert list(foreign_writes(tree, {"size"} - owned(tree))) == found
