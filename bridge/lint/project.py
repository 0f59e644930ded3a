"""The files under analysis and their packages: which functions an orchestrator reaches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bridge.lint.module import Function, Module
from bridge.lint.tree import nodes

CONTEXT = "OrchestrationContext"
CONTEXT_NAMES = ("ctx", "context")

WAITING_CALLS = frozenset(
    [
        "call_activity",
        "call_sub_orchestrator",
        "call_entity",
        "create_timer",
        "wait_for_external_event",
        "lock_entities",
    ]
)
"""Methods of the orchestration context whose result has to be yielded."""

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


@dataclass
class Reached:
    """A function that an orchestrator runs. calls: places it is called from, twice for one inside a loop."""

    module: Module
    function: Function
    orchestrator: str
    is_orchestrator: bool
    calls: int = 0


@dataclass
class Reach:
    """Everything one orchestrator runs, itself first."""

    functions: list[Reached] = field(default_factory=list)


class Project:
    """Modules by dotted name; those of the same packages are read when something of them is called."""

    def __init__(self) -> None:
        self.modules: dict[str, Module | None] = {}

    def add(self, module: Module) -> None:
        self.modules[module.name] = module

    def reach(self, module: Module, orchestrator: Function) -> Reach:
        """The orchestrator and what it calls in its own and in neighbouring modules, each once."""
        reach = Reach([Reached(module, orchestrator, orchestrator.name, True)])
        seen = {id(orchestrator): reach.functions[0]}
        for reached in reach.functions:  # grows while it is walked
            for call, in_loop in calls(reached.function):
                found = self._callee(reached.module, call)
                if found is None:
                    continue
                known = seen.get(id(found[1]))
                if known is None:
                    known = seen[id(found[1])] = Reached(*found, orchestrator.name, False)
                    reach.functions.append(known)
                known.calls += 2 if in_loop else 1
        return reach

    def callee(self, module: Module, call: ast.Call) -> Function | None:
        found = self._callee(module, call)
        return None if found is None else found[1]

    def _callee(self, module: Module, call: ast.Call) -> tuple[Module, Function] | None:
        if isinstance(call.func, ast.Name) and call.func.id in module.functions:
            return module, module.functions[call.func.id]
        name = module.resolve(call.func)
        if name is None or "." not in name:
            return None
        home, _, function = name.rpartition(".")
        other = self._module(home, module)
        # A package may only pass the function on.
        for _ in range(5):
            if other is None:
                return None
            if function in other.functions:
                return other, other.functions[function]
            passed = other.names.get(function)
            if passed is None:
                return None
            home, _, function = passed.rpartition(".")
            other = self._module(home, other)
        return None

    def _module(self, name: str, near: Module) -> Module | None:
        """A module of the top-level package that `near` is in; None for everything else."""
        if name in self.modules:
            return self.modules[name]
        parts = name.split(".")
        directory = near.path.absolute().parent
        for _ in range(near.name.count(".") + (1 if near.package else 0)):
            directory = directory.parent
        found: Module | None = None
        own = parts[0] == near.name.split(".")[0] or (directory / f"{parts[0]}.py").is_file()
        if own:
            base = directory.joinpath(*parts)
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    try:
                        found = Module.read(path)
                    except (SyntaxError, ValueError, OSError):
                        found = None
                    break
        self.modules[name] = found
        return found


def files(paths: list[Path]) -> Iterator[Path]:
    """The Python files at and below the paths, in order. Raises: LookupError for a path that is not there."""
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir():
            for found in sorted(path.rglob("*.py")):
                inside = found.relative_to(path).parts
                if not any(part in SKIPPED or part.startswith(".") for part in inside):
                    yield found
        else:
            raise LookupError(f"{path} is neither a file nor a directory")


def orchestrators(module: Module) -> Iterator[Function]:
    """Functions that the SDK would run as orchestrators, wherever in the module they are."""
    for node in nodes(module.tree):
        if not isinstance(node, Function) or not (node.args.posonlyargs or node.args.args):
            continue
        first = [*node.args.posonlyargs, *node.args.args][0]
        if first.annotation is not None:
            if _mentions_context(first.annotation) and len([*node.args.posonlyargs, *node.args.args]) <= 2:
                yield node
        elif first.arg in CONTEXT_NAMES and any(
            isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id == first.arg
            and call.func.attr in WAITING_CALLS
            for call, _ in calls(node)
        ):
            yield node


@lru_cache(maxsize=256)
def calls(function: Function) -> list[tuple[ast.Call, bool]]:
    """Calls in a function, nested functions included, and whether each is inside a loop."""
    found: list[tuple[ast.Call, bool]] = []
    stack: list[tuple[ast.AST, bool]] = [(node, False) for node in function.body]
    while stack:
        node, in_loop = stack.pop()
        if isinstance(node, ast.Call):
            found.append((node, in_loop))
        inside = in_loop or isinstance(node, ast.For | ast.While | ast.comprehension)
        stack += [(child, inside) for child in ast.iter_child_nodes(node)]
    return found


def is_generator(function: Function) -> bool:
    """Whether calling it only makes a generator."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            stack += ast.iter_child_nodes(node)
    return False


def context_names(function: Function) -> set[str]:
    """Parameters, of the function or one nested in it, that hold the orchestration context."""
    names = set(CONTEXT_NAMES) | {"_ctx"}
    for node in nodes(function):
        if isinstance(node, Function):
            for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if one.annotation is not None and _mentions_context(one.annotation):
                    names.add(one.arg)
    return names


def _mentions_context(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.Constant):
        return isinstance(annotation.value, str) and annotation.value.rpartition(".")[2].strip() == CONTEXT
    if isinstance(annotation, ast.Attribute):
        return annotation.attr == CONTEXT
    return isinstance(annotation, ast.Name) and annotation.id == CONTEXT
