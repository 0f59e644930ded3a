"""Files under analysis with their packages, and the functions that an orchestrator reaches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bridge.lint.contexts import class_named, context_names, hide_activities
from bridge.lint.finding import Finding
from bridge.lint.module import Function, Module, constants, local_names, named
from bridge.lint.tree import children, nodes

VIEWS = ("values", "items", "copy")
"""Methods that return a table's members, or all of it."""

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


FEEDERS = frozenset(["filter", "map", "max", "min", "reduce", "sort", "sorted"])
"""Functions and methods that call the functions passed to them."""


@dataclass
class Reached:
    """A function that an orchestrator runs.

    calls: number of calls of the function; a call inside a loop counts twice.
    contexts: parameters that receive the orchestration context.
    given: arguments that its callers pass, by parameter.
    """

    module: Module
    function: Function
    orchestrator: str
    is_orchestrator: bool
    calls: int = 0
    contexts: set[str] = field(default_factory=set)
    given: dict[str, list[tuple[Reached, ast.expr]]] = field(default_factory=dict)


class Project:
    """Modules by dotted name. Modules of the same packages are read when one of their names is called."""

    def __init__(self) -> None:
        self.modules: dict[str, Module | None] = {}

    def add(self, module: Module) -> None:
        self.modules[module.name] = module
        hide_activities(self, module)

    def reach(self, module: Module, orchestrator: Function) -> list[Reached]:
        """Functions that an orchestrator runs, in its own and neighbouring modules, each once; it is the first."""
        root = Reached(module, orchestrator, orchestrator.name, True)
        functions = [root]
        first = [one.arg for one in (*orchestrator.args.posonlyargs, *orchestrator.args.args)]
        root.contexts |= set(first[1:2] if first[:1] in (["self"], ["cls"]) else first[:1])
        seen = {id(orchestrator): root}
        for wrapper in self._wrappers(module, orchestrator):
            seen[id(wrapper[1])] = Reached(*wrapper, orchestrator.name, False, 1)
            functions.append(seen[id(wrapper[1])])
        for reached in functions:  # grows during iteration
            contexts = self.context_names(reached)
            for call, in_loop in calls(reached.function):
                for found in self._run_by(reached, call):
                    known = seen.get(id(found[1]))
                    if known is None:
                        known = seen[id(found[1])] = Reached(*found, orchestrator.name, False)
                        functions.append(known)
                    known.calls += 2 if in_loop else 1
                    known.contexts |= _given_context(call, found[1], contexts)
                    for name, value in _given(call, found[1]):
                        known.given.setdefault(name, []).append((reached, value))
            for base, name in implicit(reached.function):
                method = self._of_instance(reached.module, base, name, reached.function)
                if method is not None and id(method[1]) not in seen:
                    if not name.startswith("__") and not _is_property(method[1]):
                        continue
                    seen[id(method[1])] = Reached(*method, orchestrator.name, False, 1)
                    functions.append(seen[id(method[1])])
        return functions

    def _wrappers(self, module: Module, orchestrator: Function) -> Iterator[tuple[Module, Function]]:
        """Innermost functions with which decorators of the project wrap an orchestrator."""
        for decorator in orchestrator.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            found = self._callee(module, ast.Call(called, [], []))
            if found is None:
                continue
            for node in nodes(found[1])[1:]:
                if isinstance(node, ast.FunctionDef) and not any(
                    isinstance(inner, ast.FunctionDef) for inner in nodes(node)[1:]
                ):
                    yield found[0], node

    def _run_by(self, reached: Reached, call: ast.Call) -> Iterator[tuple[Module, Function]]:
        """Functions that a call may run: the callee, or the members of a table."""
        found = self._callee(reached.module, call, reached.function)
        if found is not None:
            yield found
        for home, value in self.tabled(reached.module, call.func, reached.function):
            if isinstance(value, ast.Lambda):
                yield home, named(value)
            else:
                entry = self._callee(
                    home, ast.Call(value, [], []), reached.function if home is reached.module else None
                )
                if entry is not None:
                    yield entry

    def tabled(self, module: Module, called: ast.expr, function: Function) -> Iterator[tuple[Module, ast.expr]]:
        """Members of the table from which a called expression takes its function: `TABLE[kind]`, `TABLE.get(kind)`."""
        if isinstance(called, ast.Name):
            for value in taken(function).get(called.id, ()):
                yield from self.tabled(module, value, function)
            return
        if (
            isinstance(called, ast.Call)
            and isinstance(called.func, ast.Attribute)
            and called.func.attr in ("get", "pop")
        ):
            table, more = called.func.value, called.args[1:]
        elif isinstance(called, ast.Subscript):
            table, more = called.value, []
        else:
            return
        yield from ((module, value) for value in more)
        while isinstance(table, ast.Call) and isinstance(table.func, ast.Attribute) and table.func.attr in VIEWS:
            table = table.func.value
        literals = [(module, one) for one in _literals(table, function)]
        if not literals and isinstance(table, ast.Name | ast.Attribute):
            home, _, last = (module.resolve(table) or "").rpartition(".")
            class_ = module.owners.get(function, "") if home in ("self", "cls") else home
            other = self.module(home, module) if home and class_ not in module.classes else module
            if class_ in module.classes:
                literals = [(module, value) for value in module.assigned(class_, last)]
            elif other is not None and last in (tables := constants(other.tree)):
                literals = [(other, tables[last])]
        for home_of, literal in literals:
            yield from ((home_of, value) for value in _members(literal))

    def _of_instance(
        self, module: Module, base: ast.expr, name: str, function: Function
    ) -> tuple[Module, Function] | None:
        """Method that the use of an instance of a project class runs; None if there is none."""
        class_ = self._class_of(module, base, function)
        method = None if class_ is None else class_[0].method(class_[1], name)
        return None if class_ is None or method is None else (class_[0], method)

    def _class_of(
        self, module: Module, node: ast.expr, function: Function | None, depth: int = 0
    ) -> tuple[Module, str] | None:
        """Project class of which a value is an instance; None if it cannot be determined."""
        if depth > 4:
            return None
        if isinstance(node, ast.Call):
            return self.class_named(module, node.func)
        if isinstance(node, ast.Name):
            owner = module.owners.get(function) if function is not None else None
            if node.id == "self" and owner is not None:
                return module, owner
            if function is not None and node.id in _made(function):
                return self.class_named(module, _made(function)[node.id])
            if function is not None and (other_name := _renamed(function).get(node.id)) is not None:
                return self._class_of(module, other_name, function, depth + 1)
            if function is not None and (annotation := _annotations(function).get(node.id)) is not None:
                return self.class_named(module, annotation)
            if function is not None and node.id in local_names(function):
                return None
            home, _, last = module.names.get(node.id, node.id).rpartition(".")
            other = self.module(home, module) if home else module
            value = None if other is None else constants(other.tree).get(last)
            return self.class_named(other, value.func) if other and isinstance(value, ast.Call) else None
        if isinstance(node, ast.Attribute):
            holder = self._class_of(module, node.value, function, depth + 1)
            made = None if holder is None else holder[0].attributes(holder[1]).get(node.attr)
            return None if holder is None or made is None else self.class_named(holder[0], made)
        return None

    def class_named(self, module: Module, called: ast.expr) -> tuple[Module, str] | None:
        """Project class that a name refers to, with its module; None if there is none."""
        found = class_named(self, module, module.resolve(called) or "")
        return None if found is None else (found[0], found[1].name)

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
        if caller is not None:
            # Not a function: look for a method of its instance
            base, method_name = (
                (called.value, called.attr) if isinstance(called, ast.Attribute) else (called, "__call__")
            )
            if (of_instance := self._of_instance(module, base, method_name, caller)) is not None:
                return of_instance
        name = module.resolve(called)
        if name is None:
            return None
        if "." not in name:
            return self._starred(module, name)
        home, _, function = name.rpartition(".")
        other = self.module(home, module)
        # A package may only re-export the function
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

    def module_values(self, module: Module, name: str) -> list[ast.expr]:
        """Constant value of a module's name, or of a name imported from a neighbouring module.

        The list is empty if the name has no value or if a function changes it.
        """
        home, _, original = module.names.get(name, "").rpartition(".")
        where = self.module(home, module) if home else module
        if where is None:
            return []
        value = constants(where.tree).get(original or name)
        return [] if value is None or (original or name) in where.changing_globals else [value]

    def _method(self, module: Module, called: ast.expr, caller: Function | None) -> Function | None:
        """Method that `self.x`, `cls.x`, `Class.x`, `Class().x` or `super().x` refers to, in classes of this module."""
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
        """Method of a class in another module of the package: `module.Class.method`; None if there is none."""
        module_name, _, class_ = home.rpartition(".")
        other = self.module(module_name, near) if module_name else None
        found = None if other is None else other.method(class_, method)
        return None if other is None or found is None else (other, found)

    def _starred(self, module: Module, name: str) -> tuple[Module, Function] | None:
        """Function imported by `from neighbour import *`; None if there is none."""
        for star in module.stars:
            other = self.module(star, module)
            if other is not None and name in other.functions:
                return other, other.functions[name]
        return None

    def module(self, name: str, near: Module) -> Module | None:
        """Module in the top-level package of `near`, or next to it; None for any other module."""
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
        if found is not None:
            hide_activities(self, found)
        return found


def files(paths: list[Path]) -> Iterator[Path]:
    """Python files at and below the paths, in order. Raises: LookupError for a path that does not exist."""
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


@lru_cache(maxsize=4096)
def calls(function: Function) -> list[tuple[ast.Call, bool]]:
    """Calls in a function, including those in nested functions, each with True if it is inside a loop."""
    found: list[tuple[ast.Call, bool]] = []
    stack: list[tuple[ast.AST, bool]] = [(node, False) for node in function.body]
    while stack:
        node, in_loop = stack.pop()
        if isinstance(node, ast.Call):
            found.append((node, in_loop))
            found += [(ast.Call(function, [], []), True) for function in _fed(node)]
        inside = in_loop or isinstance(node, ast.For | ast.While | ast.comprehension)
        stack += [(child, inside) for child in children(node)]
    return found


def _fed(call: ast.Call) -> list[ast.expr]:
    """Functions passed to a callable that calls them for every element."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "key")]
    return [one for one in given if isinstance(one, ast.Name | ast.Attribute)] if name in FEEDERS else []


@lru_cache(maxsize=4096)
def _made(function: Function) -> dict[str, ast.expr]:
    """Local names that hold the result of a call, with the called expression."""
    return {
        target.id: node.value.func
        for node in nodes(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@lru_cache(maxsize=4096)
def _renamed(function: Function) -> dict[str, ast.expr]:
    """Local names that hold the value of another name or attribute."""
    return {
        target.id: node.value
        for node in nodes(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _given_context(call: ast.Call, callee: Function, contexts: set[str]) -> set[str]:
    """Parameters of the callee that hold the orchestration context in this call."""
    return {name for name, value in _given(call, callee) if isinstance(value, ast.Name) and value.id in contexts}


def _given(call: ast.Call, callee: Function) -> list[tuple[str, ast.expr]]:
    """Parameters of the callee, each with the argument that a call passes."""
    names = [one.arg for one in (*callee.args.posonlyargs, *callee.args.args)]
    if names and names[0] in ("self", "cls"):
        names = names[1:]
    plain = [] if any(isinstance(one, ast.Starred) for one in call.args) else call.args
    return [*zip(names, plain, strict=False), *((one.arg, one.value) for one in call.keywords if one.arg)]


_DUNDERS = {
    "str": ("__str__",),
    "repr": ("__repr__",),
    "format": ("__format__",),
    "len": ("__len__",),
    "bool": ("__bool__",),
    "int": ("__int__",),
    "float": ("__float__",),
    "iter": ("__iter__",),
    "next": ("__next__",),
    "list": ("__iter__", "__next__"),
    "tuple": ("__iter__", "__next__"),
    "sorted": ("__iter__", "__next__"),
}
"""Special methods of the argument that a builtin calls."""

_OPERATORS = {"Add": "__add__", "Sub": "__sub__", "Mult": "__mul__", "Div": "__truediv__", "Mod": "__mod__"}
_COMPARISONS = {"Eq": "__eq__", "NotEq": "__ne__", "Lt": "__lt__", "LtE": "__le__", "Gt": "__gt__", "GtE": "__ge__"}


@lru_cache(maxsize=4096)
def implicit(function: Function) -> list[tuple[ast.expr, str]]:
    """Pairs of value and method name, for attributes that may be properties and special methods that run implicitly."""
    found: list[tuple[ast.expr, str]] = []
    for node in nodes(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found += [(node.value, node.attr), (node.value, "__getattr__")]
        elif isinstance(node, ast.With):
            found += [(one.context_expr, name) for one in node.items for name in ("__enter__", "__exit__")]
        elif isinstance(node, ast.For | ast.comprehension):
            found += [(node.iter, "__iter__"), (node.iter, "__next__")]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            found.append((node.value, "__getitem__"))
        elif isinstance(node, ast.FormattedValue):
            found += [(node.value, "__str__"), (node.value, "__format__")]
        elif isinstance(node, ast.BinOp) and (name := _OPERATORS.get(type(node.op).__name__)) is not None:
            found.append((node.left, name))
        elif isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                if isinstance(operator, ast.In | ast.NotIn):
                    found.append((right, "__contains__"))
                elif (name := _COMPARISONS.get(type(operator).__name__)) is not None:
                    found.append((left, name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            found += [(node.args[0], name) for name in _DUNDERS.get(node.func.id, ())]
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            found.append((node.test, "__bool__"))
    return [(base, name) for base, name in found if isinstance(base, ast.Name | ast.Attribute | ast.Call)]


def _is_property(function: Function) -> bool:
    names = [one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in function.decorator_list]
    return any(name in ("property", "cached_property", "getter") for name in names)


@lru_cache(maxsize=4096)
def _annotations(function: Function) -> dict[str, ast.expr]:
    """Annotations of parameters that may refer to classes."""
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {one.arg: one.annotation for one in given if isinstance(one.annotation, ast.Name | ast.Attribute)}


@lru_cache(maxsize=4096)
def taken(function: Function) -> dict[str, list[ast.expr]]:
    """Local names that hold a member of a table, with the table access: `f = TABLE[kind]`, `for f in (a, b)`."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.Call):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
            value: ast.expr = node.value
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name):
            names, value = [node.target.id], ast.Subscript(node.iter, ast.Constant(0), ast.Load())
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Tuple):
            names = [one.id for one in node.target.elts if isinstance(one, ast.Name)]
            value = ast.Subscript(node.iter, ast.Constant(0), ast.Load())
        else:
            continue
        for name in names:
            found.setdefault(name, []).append(value)
    return found


def _members(table: ast.expr) -> list[ast.expr]:
    """Values in a literal table. Of pairs in a list, both members are returned."""
    if isinstance(table, ast.Call) and isinstance(table.func, ast.Name) and table.func.id in ("dict", "list", "tuple"):
        return [*(one.value for one in table.keywords), *(each for one in table.args for each in _members(one))]
    values = table.values if isinstance(table, ast.Dict) else getattr(table, "elts", [])
    return [each for value in values for each in (value.elts if isinstance(value, ast.Tuple) else [value])]


def _literals(node: ast.expr, function: Function) -> list[ast.expr]:
    """Literal tables that an expression refers to in a function."""
    if isinstance(node, ast.Dict | ast.List | ast.Tuple | ast.Set):
        return [node]
    if isinstance(node, ast.Name):
        return [
            each.value
            for each in nodes(function)
            if isinstance(each, ast.Assign)
            and isinstance(each.value, ast.Dict | ast.List | ast.Tuple | ast.Set)
            and any(isinstance(target, ast.Name) and target.id == node.id for target in each.targets)
        ]
    return []


def finding_at(reached: Reached, node: ast.AST, rule: str, what: str, remedy: str) -> Finding:
    """Create a finding at a node. For a helper, its text names the orchestrator that runs the helper."""
    if not reached.is_orchestrator:
        what = f"{what} (in {reached.function.name}, which orchestrator {reached.orchestrator} runs)"
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding(str(reached.module.path), line, column + 1, rule, what, remedy)
