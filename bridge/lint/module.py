"""Python files as the analysis sees them: syntax tree, meaning of names, and comments that suppress findings."""

from __future__ import annotations

import ast
import builtins
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

from bridge.core.problems.suppression import MARK, Suppression, parse_suppression
from bridge.lint.forbidden import KEPT, forbidden_call, forbidden_name
from bridge.lint.tree import nodes
from bridge.system.files import read_file

_BUILTINS = frozenset(dir(builtins))
_PARTIALS = ("functools.partial", "functools.partialmethod")

MAX_SOURCE = 8 * 1024 * 1024
"""Maximum size of an analysed Python file, in bytes."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

MUTATORS = frozenset(
    [
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "popleft",
        "popitem",
        "remove",
        "reverse",
        "setdefault",
        "sort",
        "update",
    ]
)


CONTAINERS = frozenset(["Counter", "OrderedDict", "count", "defaultdict", "deque", "dict", "list", "set"])


@dataclass
class Module:
    """One analysed Python file.

    name: dotted, as far up as there are packages.
    package: True for an `__init__.py`.
    """

    path: Path
    name: str
    package: bool
    text: str
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)
    """Top-level functions of the module, by name."""
    names: dict[str, str] = field(default_factory=dict)
    """Dotted names by local name, for imported names and their aliases."""
    stars: list[str] = field(default_factory=list)
    """Modules imported with `from module import *`."""
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Module:
        """Read and parse a Python file. Raises: SyntaxError, ValueError (null bytes), UnicodeDecodeError, OSError."""
        text = io.IncrementalNewlineDecoder(None, True).decode(read_file(path, MAX_SOURCE).decode(), True)
        package = path.name == "__init__.py"
        module = cls(path, module_name(path), package, text, ast.parse(text, str(path)))
        for node in module.tree.body:
            if isinstance(node, Function):
                module.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                module.classes[node.name] = node
        module.names.update(imported(nodes(module.tree), module))
        module.stars = [
            _absolute(node, module)
            for node in nodes(module.tree)
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        ]
        module.names.update(module.aliases(module.tree.body))
        module.functions.update(lambdas(module.tree.body))
        return module

    def aliases(self, statements: Iterable[ast.AST]) -> dict[str, str]:
        """Aliases of imports and of functions: `now = datetime.now`, `now = partial(datetime.now)`."""
        found: dict[str, str] = {}
        for node in statements:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                value = self.applied(node.value) or node.value
                name = self.resolve(value)
                dynamic = not isinstance(value, ast.Name | ast.Attribute)
                if name is not None and (name.partition(".")[0] in self._known or (dynamic and "." in name)):
                    found[node.targets[0].id] = f"{self.name}.{name}" if name in self.functions else name
        return found

    def applied(self, node: ast.AST) -> ast.expr | None:
        """Function that `functools.partial(...)` will call; None for any other node."""
        if isinstance(node, ast.Call) and node.args and self.resolve(node.func) in _PARTIALS:
            return node.args[0]
        return None

    @property
    def _known(self) -> set[str]:
        return {name.partition(".")[0] for name in self.names.values()} | self.functions.keys()

    def _with_bases(self, class_: str) -> Iterator[str]:
        """Names of a class and of its ancestors, as far as they are classes of this module; each once."""
        waiting, seen = [class_], set[str]()
        while waiting:
            current = waiting.pop(0)
            if current in seen or current not in self.classes:
                continue
            seen.add(current)
            yield current
            waiting += [base.id for base in self.classes[current].bases if isinstance(base, ast.Name)]

    def method(self, class_: str, name: str) -> Function | None:
        """Method of a class of this module, including methods inherited from classes of this module; None if absent."""
        for current in self._with_bases(class_):
            for node in self.classes[current].body:
                if isinstance(node, Function) and node.name == name:
                    return node
        return None

    def constructor(self, class_: str) -> Function | None:
        """Method that runs when a class of this module is instantiated; None if the class defines none."""
        return self.method(class_, "__init__") or self.method(class_, "__post_init__")

    def attributes(self, class_: str) -> dict[str, ast.expr]:
        """Attributes of a class of this module that hold the result of a call, with the called expression."""
        return {
            target.attr if isinstance(target, ast.Attribute) else target.id: node.value.func
            for node in nodes(self.classes[class_])
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name) or (isinstance(target, ast.Attribute) and _is_self(target.value))
        }

    def assigned(self, class_: str, attribute: str) -> list[ast.expr]:
        """Values that the body of a class of this module, or of its base class, assigns to an attribute."""
        return [
            node.value
            for node in self.classes[self.holder(class_, attribute)].body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            if any(isinstance(target, ast.Name) and target.id == attribute for target in _targets(node))
        ]

    @cached_property
    def owners(self) -> dict[ast.AST, str]:
        """Class by method, for the methods of this module."""
        return {
            method: name
            for name, class_ in self.classes.items()
            for method in class_.body
            if isinstance(method, Function)
        }

    @cached_property
    def defined(self) -> frozenset[str]:
        """Names that the module itself defines, anywhere."""
        found = set(self.names) | self.functions.keys() | self.classes.keys()
        for node in nodes(self.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, Function | ast.ClassDef):
                found.add(node.name)
        return frozenset(found)

    def resolve(self, node: ast.AST) -> str | None:
        """Dotted name of an expression, such as `datetime.datetime.now`; None if it does not refer to a name.

        Builtins and the module's own names are returned as written.
        """
        parts: list[str] = []
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            elif (member := self._member(node)) is not None:
                node, name = member
                parts.append(name)
            else:
                imported = self._imported(node)
                return None if imported is None else ".".join([imported, *reversed(parts)])
        parts.append(self.names.get(node.id) or self._starred(node.id, parts) or node.id)
        return ".".join(reversed(parts))

    def _member(self, node: ast.AST) -> tuple[ast.expr, str] | None:
        """Value and attribute of `getattr(x, "a")`, `x.__dict__["a"]`, `vars(x)["a"]` and `attrgetter("a")(x)`."""
        if isinstance(node, ast.Subscript):
            holder, name = node.value, text_of(node.slice)
            if isinstance(holder, ast.Attribute) and holder.attr == "__dict__":
                base = holder.value
            elif isinstance(holder, ast.Call) and is_named(holder.func, "vars") and len(holder.args) == 1:
                base = holder.args[0]
            else:
                return None
        elif isinstance(node, ast.Call) and is_named(node.func, "getattr") and len(node.args) > 1:
            base, name = node.args[0], text_of(node.args[1])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and node.args and node.func.args:
            if self.resolve(node.func.func) != "operator.attrgetter":
                return None
            base, name = node.args[0], text_of(node.func.args[0])
        else:
            return None
        return None if name is None else (base, name)

    def _imported(self, node: ast.AST) -> str | None:
        """Module of `__import__("a")` or `importlib.import_module("a.b")`."""
        if not isinstance(node, ast.Call) or not node.args:
            return None
        name = text_of(node.args[0])
        if name is not None and is_named(node.func, "__import__"):
            return name.partition(".")[0]
        return name if self.resolve(node.func) == "importlib.import_module" else None

    def _starred(self, name: str, parts: list[str]) -> str | None:
        """Dotted name that an undefined name may have through `from module import *`.

        None unless a call of that name is forbidden.
        """
        if not self.stars or name in _BUILTINS or name in self.defined:
            return None
        for star in self.stars:
            if forbidden_call(".".join([star, name, *reversed(parts)])) is not None:
                return f"{star}.{name}"
        return None

    @cached_property
    def mentions_replaying(self) -> bool:
        return "is_replaying" in self.text

    @cached_property
    def suppressions(self) -> dict[int, Suppression]:
        if MARK not in self.text:
            return {}
        found = {}
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type != tokenize.COMMENT:
                continue
            alone = not token.line[: token.start[1]].strip()
            suppression = parse_suppression(token.string, token.start[0], alone=alone)
            if suppression is not None:
                found[suppression.applies_to] = suppression
        return found

    @cached_property
    def objects(self) -> dict[str, str]:
        """Names of the module that hold the result of an imported class or function, with its dotted name."""
        made = {name: value.func for name, value in constants(self.tree).items() if isinstance(value, ast.Call)}
        called = {name: self.resolve(function) or "" for name, function in made.items()}
        return {name: call for name, call in called.items() if "." in call}

    @cached_property
    def loaded(self) -> dict[str, tuple[str, str]]:
        """Names of the module whose values differ at each program start.

        Each has its rule and the dotted name of the source of its value.
        """
        found = {}
        for name, value in constants(self.tree).items():
            if isinstance(value, ast.Lambda):
                continue
            for node in nodes(value):
                read = (
                    node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Subscript) else node
                )
                called = self.resolve(read)
                if called is None or "." not in called:
                    continue
                arguments = len(node.args) if isinstance(node, ast.Call) else 0
                rule = forbidden_call(called, arguments) if isinstance(node, ast.Call) else forbidden_name(called)
                if rule is not None and rule[0] in KEPT:
                    found[name] = rule[0], called
        return found

    @cached_property
    def mutable(self) -> frozenset[str]:
        """Names that the module assigns outside functions."""
        return frozenset(
            target.id for node in self.tree.body for target in _targets(node) if isinstance(target, ast.Name)
        )

    def is_container(self, name: str) -> bool:
        """True if a name of the module holds a list, dict, set or similar container."""
        value = constants(self.tree).get(name)
        if isinstance(value, ast.Call):
            return (self.resolve(value.func) or "").rpartition(".")[2] in CONTAINERS
        return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)

    @cached_property
    def changing_globals(self) -> frozenset[str]:
        """Names of the module, and `Class.attribute` of its classes, that functions assign or change in place."""
        changing: set[str] = set()
        for function in (node for node in nodes(self.tree) if isinstance(node, Function)):
            shared = SharedNames(self, function)
            for node in nodes(function):
                if isinstance(node, ast.Global):
                    changing.update(node.names)
                elif (name := shared.changed(node)) is not None:
                    changing.add(name)
        return frozenset(changing)

    def holder(self, class_: str, attribute: str) -> str:
        """Class of this module whose body defines an attribute of the given class; the given class if none does."""
        for current in self._with_bases(class_):
            for node in self.classes[current].body:
                if any(isinstance(target, ast.Name) and target.id == attribute for target in _targets(node)):
                    return current
        return class_

    def is_shared_by_instances(self, class_: str, attribute: str) -> bool:
        """True if `self.attribute` is the class's own: its body defines the attribute and no method assigns it."""
        home = self.holder(class_, attribute)
        # In dataclasses, and in classes with foreign bases, an annotation declares a field of each instance
        fields = bool(self.classes[home].decorator_list or self.classes[home].bases)
        defined = any(
            isinstance(target, ast.Name) and target.id == attribute
            for node in self.classes[home].body
            if not (fields and isinstance(node, ast.AnnAssign))
            for target in _targets(node)
        )
        return defined and not any(
            isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Store)
            for each in {home, class_}
            for node in nodes(self.classes[each])
            if _is_self(getattr(node, "value", None))
        )


class SharedNames:
    """Values that outlive a run, by the names one function uses for them: globals, classes and their attributes."""

    def __init__(self, module: Module, function: Function) -> None:
        self._module = module
        self._local = local_names(function)
        self._owner = next((name for name, each in module.classes.items() if function in each.body), None)
        self._aliases: dict[str, str] = {}
        for node in nodes(function):
            for target, value in _bound(node):
                meant = self.of(value)
                if meant is not None and isinstance(target, ast.Name):
                    self._aliases[target.id] = meant

    def of(self, node: ast.AST) -> str | None:
        """Canonical name of an expression: `NAME`, `Class` or `Class.attribute`.

        None if the value does not outlive a run.
        """
        if isinstance(node, ast.Name):
            if node.id in self._aliases:
                return self._aliases[node.id]
            if node.id == "cls" and self._owner is not None:
                return self._owner
            known = node.id in self._module.mutable or node.id in self._module.classes
            return node.id if known and node.id not in self._local else None
        if isinstance(node, ast.Call):
            of_type = isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1
            return self._owner if of_type and _is_self(node.args[0]) else None
        if not isinstance(node, ast.Attribute):
            return None
        if _is_self(node.value):
            if self._owner is None or node.attr == "__class__":
                return self._owner
            shared = self._module.is_shared_by_instances(self._owner, node.attr)
            return f"{self._module.holder(self._owner, node.attr)}.{node.attr}" if shared else None
        base = self.of(node.value)
        if base is None or base not in self._module.classes:
            return None
        return f"{self._module.holder(base, node.attr)}.{node.attr}"

    def changed(self, node: ast.AST) -> str | None:
        """Canonical name of the value that a node assigns or changes in place; None if there is none."""
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            return self._aliases.get(node.target.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
            base = self.of(node.args[0]) if len(node.args) > 1 else None
            given = node.args[1] if base is not None else None
            name = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else "attributes"
            return f"{base}.{name}" if base in self._module.classes else base
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            base = self.of(node.value)
            if base in self._module.classes:
                return self.of(node)
            return base
        changing = changed_value(node)
        meant = None if changing is None else self.of(changing)
        return None if meant in self._module.classes else meant


def _bound(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """Pairs of bound name and value in a statement.

    Tuples, and loops over literal tuples, give a pair for each member.
    """
    if isinstance(node, ast.NamedExpr):
        return [(node.target, node.value)]
    if isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple | ast.List):
        return [(node.target, value) for value in node.iter.elts]
    if not isinstance(node, ast.Assign):
        return []
    found = [(target, node.value) for target in node.targets]
    for target, value in [*found]:
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            found += zip(target.elts, value.elts, strict=False)
    return found


def lambdas(statements: Iterable[ast.AST]) -> dict[str, Function]:
    """Functions by name, for names that stand for a lambda."""
    return {
        node.targets[0].id: named(node.value)
        for node in statements
        if isinstance(node, ast.Assign)
        if isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name)
    }


@lru_cache(maxsize=4096)
def named(node: ast.Lambda) -> ast.FunctionDef:
    """Convert a lambda to the equivalent function definition."""
    body = ast.copy_location(ast.Return(node.body), node.body)
    function = ast.FunctionDef("<lambda>", node.args, [body], [])
    return ast.copy_location(function, node)


def module_name(path: Path) -> str:
    parts = [] if path.name == "__init__.py" else [path.stem]
    directory = path.absolute().parent
    while (directory / "__init__.py").is_file():
        parts.append(directory.name)
        directory = directory.parent
    return ".".join(reversed(parts)) or path.stem


def imported(among: Iterable[ast.AST], module: Module) -> dict[str, str]:
    """Dotted names by local name, for all imports."""
    names: dict[str, str] = {}
    for node in among:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            for alias in node.names:
                if alias.name != "*":
                    names[alias.asname or alias.name] = f"{base}.{alias.name}"
    return names


@lru_cache(maxsize=64)
def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Expressions that a module assigns to its names, by target."""
    assigned = (node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign))
    return {ast.unparse(target): node.value for node in assigned for target in _targets(node) if node.value is not None}


@lru_cache(maxsize=4096)
def local_names(function: Function) -> frozenset[str]:
    """Parameters, and names that the function assigns and does not declare global or nonlocal."""
    arguments = function.args
    names = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None}
    declared: set[str] = set()
    for node in nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            declared.update(node.names)
    return frozenset(names - declared)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def text_of(node: ast.expr) -> str | None:
    """Value of a string literal; None for any other node."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_self(node: object) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def changed(node: ast.AST) -> str | None:
    """Name whose value a node changes in place; None if there is none."""
    base = changed_value(node)
    return base.id if isinstance(base, ast.Name) else None


def changed_value(node: ast.AST) -> ast.expr | None:
    """Value that a node changes in place; None if there is none."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        return node.func.value
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next" and node.args:
        return node.args[0]
    return None
