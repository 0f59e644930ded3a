"""The files under analysis and their packages: which functions an orchestrator reaches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bridge.lint.contexts import context_names
from bridge.lint.module import Function, Module, constants
from bridge.lint.tree import nodes

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


FEEDERS = frozenset(["filter", "map", "max", "min", "reduce", "sort", "sorted"])
"""What calls the functions that it is given."""


@dataclass
class Reached:
    """A function that an orchestrator runs. calls: places it is called from, twice for one inside a loop.

    contexts: parameters that it is given the orchestration context in.
    """

    module: Module
    function: Function
    orchestrator: str
    is_orchestrator: bool
    calls: int = 0
    contexts: set[str] = field(default_factory=set)


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
        first = [one.arg for one in (*orchestrator.args.posonlyargs, *orchestrator.args.args)]
        reach.functions[0].contexts |= set(first[1:2] if first[:1] in (["self"], ["cls"]) else first[:1])
        seen = {id(orchestrator): reach.functions[0]}
        for reached in reach.functions:  # grows while it is walked
            contexts = self.context_names(reached)
            for call, in_loop in calls(reached.function):
                found = self._callee(reached.module, call, reached.function)
                if found is None:
                    continue
                known = seen.get(id(found[1]))
                if known is None:
                    known = seen[id(found[1])] = Reached(*found, orchestrator.name, False)
                    reach.functions.append(known)
                known.calls += 2 if in_loop else 1
                known.contexts |= _given_context(call, found[1], contexts)
        return reach

    def context_names(self, reached: Reached) -> set[str]:
        """Names that hold the orchestration context in a function."""
        return context_names(self, reached.module, reached.function) | reached.contexts

    def callee(self, module: Module, call: ast.Call) -> Function | None:
        found = self._callee(module, call)
        return None if found is None else found[1]

    def _callee(self, module: Module, call: ast.Call, caller: Function | None = None) -> tuple[Module, Function] | None:
        called = module.applied(call) or call.func
        if isinstance(called, ast.Name) and called.id in module.functions:
            return module, module.functions[called.id]
        if isinstance(called, ast.Name) and (made := module.constructor(called.id)) is not None:
            return module, made
        if (method := self._method(module, called, caller)) is not None:
            return module, method
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and caller is not None:
            class_ = _made(caller).get(called.value.id)
            if class_ is not None:
                method_of_class = ast.Attribute(class_, called.attr, ast.Load())
                return self._callee(module, ast.Call(method_of_class, [], []))
        name = module.resolve(called)
        if name is None:
            return None
        if "." not in name:
            return self._starred(module, name)
        home, _, function = name.rpartition(".")
        other = self.module(home, module)
        # A package may only pass the function on.
        for _ in range(5):
            if other is None:
                return self._of_class(home, function, module)
            if function in other.functions:
                return other, other.functions[function]
            if (made := other.constructor(function)) is not None:
                return other, made
            if (starred := self._starred(other, function)) is not None:
                return starred
            passed = other.names.get(function)
            if passed is None:
                return None
            home, _, function = passed.rpartition(".")
            other = self.module(home, other)
        return None

    def kept(self, module: Module, name: str) -> list[ast.expr]:
        """What a name of the module, or one that it imports from a neighbour, stands for while nobody changes it."""
        home, _, original = module.names.get(name, "").rpartition(".")
        where = self.module(home, module) if home else module
        if where is None:
            return []
        value = constants(where.tree).get(original or name)
        return [] if value is None or (original or name) in where.changing_globals else [value]

    def _method(self, module: Module, called: ast.expr, caller: Function | None) -> Function | None:
        """What `self.x`, `cls.x`, `Class.x`, `Class().x` or `super().x` is, of classes of this module."""
        if not isinstance(called, ast.Attribute):
            return None
        base = called.value.func if isinstance(called.value, ast.Call) else called.value
        if not isinstance(base, ast.Name):
            return None
        owner = module.owners.get(caller) if caller is not None else None
        if owner is not None and base.id in ("self", "cls", "super"):
            return module.method(owner, called.attr)
        return module.method(base.id, called.attr)

    def _of_class(self, home: str, method: str, near: Module) -> tuple[Module, Function] | None:
        """A method of a class that another module of the package has: `module.Class.method`."""
        module_name, _, class_ = home.rpartition(".")
        other = self.module(module_name, near) if module_name else None
        found = None if other is None else other.method(class_, method)
        return None if other is None or found is None else (other, found)

    def _starred(self, module: Module, name: str) -> tuple[Module, Function] | None:
        """A function that comes with `from neighbour import *`."""
        for star in module.stars:
            other = self.module(star, module)
            if other is not None and name in other.functions:
                return other, other.functions[name]
        return None

    def module(self, name: str, near: Module) -> Module | None:
        """A module of the top-level package that `near` is in, or beside it; None for everything else."""
        if name in self.modules:
            return self.modules[name]
        parts = name.split(".")
        directory = near.path.absolute().parent
        for _ in range(near.name.count(".") + (1 if near.package else 0)):
            directory = directory.parent
        found: Module | None = None
        beside = (directory / f"{parts[0]}.py", directory / parts[0] / "__init__.py")
        own = parts[0] == near.name.split(".")[0] or any(path.is_file() for path in beside)
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


@lru_cache(maxsize=256)
def calls(function: Function) -> list[tuple[ast.Call, bool]]:
    """Calls in a function, nested functions included, and whether each is inside a loop."""
    found: list[tuple[ast.Call, bool]] = []
    stack: list[tuple[ast.AST, bool]] = [(node, False) for node in function.body]
    while stack:
        node, in_loop = stack.pop()
        if isinstance(node, ast.Call):
            found.append((node, in_loop))
            found += [(ast.Call(function, [], []), True) for function in _fed(node)]
        inside = in_loop or isinstance(node, ast.For | ast.While | ast.comprehension)
        stack += [(child, inside) for child in ast.iter_child_nodes(node)]
    return found


def _fed(call: ast.Call) -> list[ast.expr]:
    """Functions that are handed to somebody who calls them for every element."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "key")]
    return [one for one in given if isinstance(one, ast.Name | ast.Attribute)] if name in FEEDERS else []


@lru_cache(maxsize=256)
def _made(function: Function) -> dict[str, ast.expr]:
    """Local names that hold what a call gave, and what was called."""
    return {
        target.id: node.value.func
        for node in nodes(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _given_context(call: ast.Call, callee: Function, contexts: set[str]) -> set[str]:
    """Parameters of the callee that hold the orchestration context in this call."""
    names = [one.arg for one in (*callee.args.posonlyargs, *callee.args.args)]
    if names and names[0] in ("self", "cls"):
        names = names[1:]
    given = [*zip(names, call.args, strict=False), *((one.arg, one.value) for one in call.keywords)]
    return {name for name, value in given if name and isinstance(value, ast.Name) and value.id in contexts}
