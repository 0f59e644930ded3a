"""Rules of the code of brokers: private parts of client libraries in one module, and state changed by its owner."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.kit.source import trees

INTERNALS = "sdk_internals.py"
TUPLES = {"_fields", "_replace", "_asdict"}
"""Public members of named tuples."""


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Imports of private modules and names, and private members of other objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(name.startswith("_") for name in names):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import) and any("._" in alias.name for alias in node.names):
            yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = node.attr in TUPLES or ast.unparse(node.value) in ("self", "cls", "super()")
            if not own:
                yield ast.unparse(node)


def foreign_writes(tree: ast.AST) -> Iterator[str]:
    """Assignments to members of objects other than `self`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if ast.unparse(node.value) not in ("self", "cls"):
            yield ast.unparse(node)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the brokers but those for private parts of the SDKs."""
    for path, tree in trees("bridge/brokers"):
        if path.name != INTERNALS:
            yield path.as_posix(), tree


def test_private_parts_are_used_in_one_module() -> None:
    assert [(name, use) for name, tree in modules() for use in private_uses(tree)] == []


def test_nobody_writes_the_members_of_another_object() -> None:
    """Members that a client library offers for writing are left out."""
    public = {
        "context.check_hostname", "sent.message_id", "properties.message_id", "sent.raw_amqp_message.properties",
        "amqp.encoded",
    }  # fmt: skip
    found = [(name, write) for name, tree in modules() for write in foreign_writes(tree) if write not in public]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from azure.servicebus._pyamqp import _decode", 1), ("import aiokafka._x", 1), ("client._link.state", 1),
        ("from azure.servicebus import exceptions", 0), ("self._link.state", 0), ("Header._fields", 0),
    ],
)  # fmt: skip
def test_private_uses_are_found(text: str, found: int) -> None:
    assert len(list(private_uses(ast.parse(text)))) == found


def test_foreign_writes_are_found() -> None:
    assert list(foreign_writes(ast.parse("a.b = self.c = d.e.f = 1; x.y += 1"))) == ["a.b", "d.e.f", "x.y"]
