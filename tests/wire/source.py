"""Literals in the product's source by role, collected from its syntax trees."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache

from tests.kit.source import trees, walk

_LONGEST = 120
"""Maximum length, in characters, of a literal that can be a name on the wire; longer ones are prose or code."""

_LOGS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_IDENTIFIERS = frozenset({"TypeVar", "ParamSpec", "NewType", "getattr", "hasattr", "setattr", "attrgetter"})
"""Functions whose literals are Python names, which only a rename changes."""


class Texts(ast.NodeVisitor):
    """Visitor that collects literals. found: by role."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = defaultdict(set)

    def _add(self, role: str, node: ast.AST) -> None:
        text = literal(node)
        if text is not None and text and len(text) <= _LONGEST and not any(each.isspace() for each in text):
            self.found[role].add(text)

    def visit_Module(self, node: ast.Module) -> None:
        self._body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._body(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._body(node)

    def _body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Visit a body without docstrings (also of constants) and annotations."""
        for name, value in ast.iter_fields(node):
            for each in value if isinstance(value, list) else [value]:
                is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
                if isinstance(each, ast.AST) and not is_text and name not in ("returns", "name"):
                    self.visit(each)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)
        self._choices(node.annotation)

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None:
            self._choices(node.annotation)

    def _choices(self, annotation: ast.AST) -> None:
        for node in ast.walk(annotation):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
                self.visit(node.slice)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {each.id for each in node.targets if isinstance(each, ast.Name)}
        if not names & {"__all__", "__slots__", "_HOMES"}:
            self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        keys = [literal(key) for key in node.keys if key is not None]
        if keys and all(key is not None and key.isprintable() and " " not in key for key in keys):
            self.found["objects"].add("{" + ", ".join(sorted(str(key) for key in keys)) + "}")
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and literal(key) is not None:
                self._add("members written", key)
            elif key is not None:
                self.visit(key)
            self.visit(value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if literal(node.slice) is not None:
            self._add("members read" if isinstance(node.ctx, ast.Load) else "members written", node.slice)
        else:
            self.visit(node.slice)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn) and literal(node.left) is not None:
            self._add("members read", node.left)
            self.visit(node.comparators[0])
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _IDENTIFIERS:
            return
        if called in _LOGS and isinstance(node.func, ast.Attribute):
            self._logged(node)
        arguments = list(node.args)
        if called in ("get", "pop") and arguments and literal(arguments[0]) is not None:
            self._add("members read", arguments.pop(0))
        self.visit(node.func)
        for each in (*arguments, *(keyword.value for keyword in node.keywords)):
            self.visit(each)

    def _logged(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
                pairs = [(literal(key), value) for key, value in zip(keyword.value.keys, keyword.value.values) if key]  # noqa: B905
            else:
                pairs = [(keyword.arg, keyword.value)]
            for name, value in pairs:
                if name not in (None, "exc_info", "stack_info", "extra", "stacklevel"):
                    self.found["log fields"].add(str(name))
                if name == "action":
                    self._add("log actions", value)

    def visit_Constant(self, node: ast.Constant) -> None:
        self._add("words", node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._add("words", node)
        for each in node.values:
            if isinstance(each, ast.FormattedValue):
                self.visit(each.value)


def literal(node: ast.AST) -> str | None:
    """Return the text of a literal: `{}` for a field of an f-string, b"" as its representation."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return repr(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(each.value if isinstance(each, ast.Constant) else "{}" for each in node.values)  # type: ignore[misc]  # mypy cannot infer it
    return None


@cache
def texts(room: str = "bridge") -> dict[str, set[str]]:
    """Return the literals below a folder, by role."""
    visitor = Texts()
    for _, tree in trees(room):
        visitor.visit(tree)
    return visitor.found


@cache
def calls(room: str = "bridge") -> tuple[tuple[str, str, ast.Call], ...]:
    """Yield the calls below a folder: name of the object, function, and call."""
    found = []
    for node in _nodes(room):
        if isinstance(node, ast.Call):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            found.append((_name(owner), _name(node.func), node))
    return tuple(found)


def _name(node: ast.AST | None) -> str:
    """Return the last part of a name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def _nodes(room: str) -> tuple[ast.AST, ...]:
    kinds = (ast.Call, ast.Attribute, ast.Subscript)
    return tuple(node for _, tree in trees(room) for node in walk(tree) if isinstance(node, kinds))


def first_arguments(*called: str) -> set[str]:
    """Return the literal first arguments of calls of functions with these names."""
    texts = (literal(node.args[0]) for _, name, node in calls() if name in called and node.args)
    return {text for text in texts if text is not None}


def attributes_of(owner: str) -> set[str]:
    """Return the attributes read from objects with this name, such as `OK` of `StatusCode.OK`."""
    return {node.attr for node in _nodes("bridge") if isinstance(node, ast.Attribute) and _name(node.value) == owner}


def calls_of(*names: str) -> int:
    """Return the number of calls of these functions in the product."""
    return sum(name in names for _, name, _ in calls())


def environment(room: str) -> set[str]:
    """Return the names that are looked up in `os.environ`."""
    looked_up: list[ast.AST] = [
        node.args[0] for owner, name, node in calls(room) if node.args and (owner == "environ" or name == "getenv")
    ]
    looked_up += [
        node.slice for node in _nodes(room) if isinstance(node, ast.Subscript) and _name(node.value) == "environ"
    ]
    return {text for node in looked_up if (text := literal(node)) is not None}
