"""Private members of SDKs are touched in files named `sdk_internals.py` only.

Brokers have the same rule, with the names of their client libraries: tests/brokers/test_structure.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.kit.source import parse, uncollected, walk

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("bridge/brokers/",)
FILES = sorted(
    path
    for path in (ROOT / "bridge").rglob("*.py")
    if path.name != "sdk_internals.py" and not str(path.relative_to(ROOT)).startswith(ELSEWHERE)
)
OF_THE_LANGUAGE = frozenset({"_replace", "_asdict", "_fields", "_make", "_exit"})
"""Documented members of the standard library whose names begin with an underscore."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_THE_LANGUAGE


def is_internal(module: str) -> bool:
    """True for a module of an SDK that its package does not offer. The protocol's messages are public."""
    parts = module.split(".")
    if parts[0] in ("bridge", "__future__") or parts[-1].startswith("orchestrator_service_pb2"):
        return False
    return any(is_private(part) or part == "internal" for part in parts)


def own_names(nodes: list[ast.AST]) -> set[str]:
    """Private names that a file defines: variables, functions, attributes, slots."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                found |= {str(each.value) for each in ast.walk(value) if isinstance(each, ast.Constant)}
    return found


def touches(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each touch of a private member that the file itself does not define."""
    nodes = list(walk(parse(text)))
    own = own_names(nodes)
    for node in nodes:
        match node:
            case ast.ImportFrom(module=str(module), level=0, names=names):
                if is_internal(module) and {each.name for each in names} != {"orchestrator_service_pb2"}:
                    yield node.lineno, f"from {module} import"
                elif not module.startswith("bridge"):
                    yield from ((node.lineno, f"{module}.{each.name}") for each in names if is_private(each.name))
            case ast.Import(names=names):
                yield from ((node.lineno, f"import {each.name}") for each in names if is_internal(each.name))
            case ast.Attribute(attr=name, value=value) if is_private(name) and name not in own:
                if not (isinstance(value, ast.Name) and value.id in ("self", "cls")):
                    yield node.lineno, ast.unparse(node)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if is_private(name) and name not in own:
                    yield node.lineno, ast.unparse(node)


def test_no_other_file_touches_a_private_member() -> None:
    with uncollected():
        found = [
            f"{path.relative_to(ROOT)}:{line}: {text}" for path in FILES for line, text in touches(path.read_text())
        ]
    assert found == []


@cache
def private_members(kind: type[Any]) -> frozenset[str]:
    """Private members that a class of an SDK defines, also in its methods."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return frozenset(name for name in vars(kind) if is_private(name))
    return frozenset(name for name in own_names([*walk(tree)]) if is_private(name))


def subclasses_of_sdks() -> Iterator[tuple[type[Any], frozenset[str]]]:
    """Classes of the bridge that derive from one of an SDK, with the private members that they inherit."""
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and kind.__module__ == name:
                above = (each for each in kind.__mro__ if each.__module__.partition(".")[0] == "durabletask")
                inherited: frozenset[str] = frozenset().union(*map(private_members, above))
                if inherited:
                    yield kind, inherited


def test_no_subclass_uses_an_inherited_private_member() -> None:
    found = []
    for kind, inherited in subclasses_of_sdks():
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
            match node:
                case ast.Attribute(attr=name) | ast.FunctionDef(name=name) if name in inherited:
                    found.append(f"{kind.__module__}.{kind.__qualname__}: {name}")
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "from durabletask.worker import _Registry",
        "from durabletask.internal import helpers",
        "import durabletask.internal.helpers",
        "from fastavro._read_py import read",
        "client._get_stub()",
        "super()._execute_activity(1)",
        "getattr(ctx, '_parent_trace_context', None)",
        "vars(made)['x']; made._context = 1; other._state",
    ],
)
def test_a_touch_is_found(text: str) -> None:
    assert list(touches(text))


@pytest.mark.parametrize(
    "text",
    [
        "from durabletask.internal import orchestrator_service_pb2 as pb",
        "details._replace(timeout=1)",
        "class A:\n    def __init__(self, b: B) -> None:\n        self._b = b\n        b._b",
        "import os; os._exit(1)",
    ],
)
def test_other_names_are_not_found(text: str) -> None:
    assert not list(touches(text))
