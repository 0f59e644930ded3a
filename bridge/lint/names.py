"""Check of the constant names that orchestrators call and publish to."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bridge.core.system_names import PREFIX
from bridge.core.user_code.kinds import FunctionKind
from bridge.lint.contexts import registered
from bridge.lint.finding import Finding
from bridge.lint.module import Function, Module, local_names
from bridge.lint.project import Project
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in

RULE = "unknown-name"
TARGET = "target"
ORCHESTRATION = "orchestration"

_METHODS = {
    "call_activity": (FunctionKind.ACTIVITY.value, 0, "activity"),
    "call_sub_orchestrator": (ORCHESTRATION, 0, "orchestrator"),
}
"""Methods of the orchestration context: kind of the name, and its parameter by position and name."""

_FUNCTIONS = {
    "publish": [(TARGET, 1, "target")],
    "request": [(TARGET, 1, "target")],
    "Command": [(TARGET, 0, "target")],
    "Child": [(ORCHESTRATION, 0, "orchestrator")],
    "Step": [(FunctionKind.ACTIVITY.value, 1, "action"), (FunctionKind.ACTIVITY.value, 3, "compensation")],
    "Saga": [(TARGET, -1, "publish_outcome")],
}
"""Functions and classes of bridge.workflow: kind of the name, and its parameter by position and name."""

_RUN_IT = "add it to a module under `workflows`, or list names that other workers run under `workflows.external`"
_REMEDIES = {
    TARGET: "declare targets under `targets`",
    FunctionKind.ACTIVITY.value: _RUN_IT,
    ORCHESTRATION: _RUN_IT,
    FunctionKind.ENTITY.value: _RUN_IT,
}


@dataclass(frozen=True, slots=True)
class KnownNames:
    """Names that exist, by kind: `target`, `activity`, `orchestration`, `entity` (in lower case).

    external: names of activities, orchestrations and entities that other workers run.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    external: frozenset[str] = frozenset()

    def has(self, kind: str, name: str) -> bool:
        if name.startswith(PREFIX) or kind not in self.names:
            return True
        if kind == FunctionKind.ENTITY:
            return name.lower() in self.names[kind] or name.lower() in {one.lower() for one in self.external}
        return name in self.names[kind] or (kind != TARGET and name in self.external)


def known_in(
    project: Project, modules: Sequence[Module], targets: Collection[str], external: Collection[str]
) -> KnownNames:
    """Names that the modules register, with the targets and external names of the configuration."""
    found: dict[str, set[str]] = {kind.value: set() for kind in FunctionKind}
    for module in modules:
        for kind, name in registered(project, module):
            found[kind].add(name)
        # The name of a function that a call creates is unknown until the code runs
        made = [
            target.id
            for node in module.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name) and not target.id.startswith("_")
        ]
        for names in found.values():
            names.update(made)
    found[ORCHESTRATION] = found.pop(FunctionKind.ORCHESTRATOR.value)
    kinds = {kind: frozenset(each) for kind, each in found.items()}
    return KnownNames({**kinds, TARGET: frozenset(targets)}, frozenset(external))


def unknown_names(project: Project, modules: Sequence[Module], known: KnownNames) -> Iterator[Finding]:
    """Findings for the constant names in the modules that `known` lacks."""
    scan = ConstantScan(project, modules)
    for module in modules:
        for call in calls_in(module.tree):
            for kind, argument in named_arguments(module, call):
                if isinstance(argument, ast.Call):
                    continue  # Child and Command are found as separate calls
                for where, node, name in scan.constants(module, argument):
                    if not known.has(kind, name):
                        yield _finding(where, node, kind, name, known)
                if kind != TARGET:
                    yield from _functions(scan, module, argument, kind, known)


def named_arguments(module: Module, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Arguments of a call that hold a name, each with the kind of the name."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS:
        yield from _arguments(call, [_METHODS[call.func.attr]])
        return
    name = module.resolve(call.func) or ""
    if name.endswith("EntityInstanceId.parse") and call.args and isinstance(call.args[0], ast.Constant):
        parts = str(call.args[0].value).split("@")
        if len(parts) > 2:
            yield FunctionKind.ENTITY.value, ast.copy_location(ast.Constant(parts[1]), call.args[0])
        return
    root, _, last = name.rpartition(".")
    if root.startswith("bridge.workflow") and last in _FUNCTIONS:
        yield from _arguments(call, _FUNCTIONS[last])
    elif root.startswith("durabletask") and last == "EntityInstanceId":
        yield from _arguments(call, [(FunctionKind.ENTITY.value, 0, "entity")])


def _arguments(call: ast.Call, wanted: Sequence[tuple[str, int, str]]) -> Iterator[tuple[str, ast.expr]]:
    for kind, position, name in wanted:
        given = [one.value for one in call.keywords if one.arg == name]
        if 0 <= position < len(call.args) and not any(isinstance(one, ast.Starred) for one in call.args):
            given.append(call.args[position])
        for one in given:
            yield kind, one


def _functions(
    scan: ConstantScan, module: Module, argument: ast.expr, kind: str, known: KnownNames
) -> Iterator[Finding]:
    """Findings for functions passed in place of a name that no worker registers."""
    if not isinstance(argument, ast.Name | ast.Attribute) or scan.is_local(module, argument):
        return
    function = scan.project.callee(module, ast.Call(argument, [], []))
    if isinstance(function, Function) and not known.has(kind, function.name) and function.name != "__init__":
        yield _finding(module, argument, kind, function.name, known)


def _finding(module: Module, node: ast.AST, kind: str, name: str, known: KnownNames) -> Finding:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    candidates = [*known.names[kind], *(known.external if kind != TARGET else ())]
    near = difflib.get_close_matches(shown.lower() if kind == FunctionKind.ENTITY else shown, candidates, n=3)
    meant = f"; did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else ""
    if not near and candidates:
        meant = f" (known: {', '.join(sorted(candidates)[:5])}{', ...' if len(candidates) > 5 else ''})"
    other = next((each for each in known.names if each not in (kind, TARGET) and name in known.names[each]), None)
    if other is not None and kind != TARGET:
        meant = f", but an {other}"
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding(str(module.path), line, column + 1, RULE, f"there is no {kind} `{shown}`{meant}", _REMEDIES[kind])


class ConstantScan:
    """Constants that an expression may have: literals, names of the module, parameters of helpers."""

    def __init__(self, project: Project, modules: Sequence[Module]) -> None:
        self.project = project
        self._modules = modules

    def constants(self, module: Module, node: ast.expr, depth: int = 0) -> Iterator[tuple[Module, ast.expr, str]]:
        """Possible texts of an expression, each with the module and node at which it is chosen."""
        if depth > 4:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield module, node, node.value
        elif isinstance(node, ast.IfExp):
            yield from self.constants(module, node.body, depth + 1)
            yield from self.constants(module, node.orelse, depth + 1)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                yield from self.constants(module, value, depth + 1)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left = [text for _, _, text in self.constants(module, node.left, depth + 1)]
            right = [text for _, _, text in self.constants(module, node.right, depth + 1)]
            yield from ((module, node, first + second) for first in left for second in right)
        elif isinstance(node, ast.Subscript):
            for home, table in self._tables(module, node.value):
                yield from (
                    (module, node, text) for one in table for _, _, text in self.constants(home, one, depth + 1)
                )
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from self._of_name(module, node, depth)

    def _tables(self, module: Module, node: ast.expr) -> Iterator[tuple[Module, list[ast.expr]]]:
        """Values of the dictionaries that an expression may stand for."""
        function = self._enclosing(module, node)
        values: list[ast.expr] = [node]
        if isinstance(node, ast.Name):
            is_local = function is not None and node.id in local_names(function)
            values = (
                _assigned(function, node.id) if function and is_local else self.project.module_values(module, node.id)
            )
        yield from ((module, value.values) for value in values if isinstance(value, ast.Dict))

    def _of_class(self, module: Module, node: ast.Attribute) -> list[ast.expr]:
        """Values of a class attribute: `Targets.DECISIONS`, also of an enumeration, or `self.target`."""
        base = node.value
        if node.attr == "value" and isinstance(base, ast.Attribute):
            return self._of_class(module, base)
        function = self._enclosing(module, node)
        if isinstance(base, ast.Name) and base.id in ("self", "cls"):
            owner = module.owners.get(function) if function is not None else None
            return [] if owner is None else module.assigned(owner, node.attr)
        found = self.project.class_named(module, base)
        return [] if found is None else found[0].assigned(found[1], node.attr)

    def is_local(self, module: Module, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        function = self._enclosing(module, node)
        return isinstance(node, ast.Name) and function is not None and node.id in local_names(function)

    def _of_name(
        self, module: Module, node: ast.Name | ast.Attribute, depth: int
    ) -> Iterator[tuple[Module, ast.expr, str]]:
        function = self._enclosing(module, node)
        if isinstance(node, ast.Name) and function is not None and node.id in local_names(function):
            values = _assigned(function, node.id)
            for value in values or ():
                yield from self.constants(module, value, depth + 1)
            if not values:
                for home, given in self._given(function, node.id):
                    yield from self.constants(home, given, depth + 1)
            return
        values = self.project.module_values(module, ast.unparse(node)) if isinstance(node, ast.Name) else []
        if isinstance(node, ast.Attribute):
            path, _, last = (module.resolve(node) or "").rpartition(".")
            other = self.project.module(path, module) if path else None
            values = self._of_class(module, node) if other is None else self.project.module_values(other, last)
        for value in values:
            # The place of use is more helpful than the place of the constant
            yield from ((module, node, text) for _, _, text in self.constants(module, value, depth + 1))

    def _given(self, function: Function, parameter: str) -> Iterator[tuple[Module, ast.expr]]:
        """Values that calls in the modules pass for a parameter, and its default."""
        arguments = [*function.args.posonlyargs, *function.args.args]
        names = [one.arg for one in arguments]
        if parameter in names:
            position = names.index(parameter)
            if names[0] in ("self", "cls"):
                position -= 1
            calls = self._calls.get(id(function), ())
            default = dict(zip(reversed(names), reversed(function.args.defaults), strict=False)).get(parameter)
            home = self._homes.get(id(function))
            if default is not None and home is not None:
                yield home, default
            for module, call in calls:
                if any(isinstance(one, ast.Starred) for one in call.args):
                    continue
                keyword = next((one.value for one in call.keywords if one.arg == parameter), None)
                if keyword is not None:
                    yield module, keyword
                elif position < len(call.args):
                    yield module, call.args[position]

    @cached_property
    def _calls(self) -> dict[int, list[tuple[Module, ast.Call]]]:
        """Calls of functions in the modules, by id of the function."""
        found: dict[int, list[tuple[Module, ast.Call]]] = {}
        for module in self._modules:
            for call in calls_in(module.tree):
                function = self.project.callee(module, call)
                if function is not None:
                    found.setdefault(id(function), []).append((module, call))
        return found

    @cached_property
    def _homes(self) -> dict[int, Module]:
        """Modules by id of their functions."""
        return {
            id(node): module for module in self._modules for node in nodes(module.tree) if isinstance(node, Function)
        }

    def _enclosing(self, module: Module, node: ast.AST) -> Function | None:
        parents = parents_in(module.tree)
        current: ast.AST | None = node
        while current is not None and not isinstance(current, Function):
            current = parents.get(current)
        return current


def _assigned(function: Function, name: str) -> list[ast.expr]:
    """Values that a function assigns to a name. Loops over literal collections count as assignments."""
    found: list[ast.expr] = []
    for node in nodes(function):
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets):
            found.append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            found += [] if node.value is None else [node.value]
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.List | ast.Tuple | ast.Set):
            found += node.iter.elts if isinstance(node.target, ast.Name) and node.target.id == name else []
    return found
