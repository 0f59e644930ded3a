"""Code that a replay cannot repeat: clocks, random numbers, and access to the outside world."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from bridge.lint.finding import Finding
from bridge.lint.forbidden import ACTIVITY, PATH_METHODS, ZONE, forbidden_call, forbidden_function, forbidden_name
from bridge.lint.module import Module, is_named, local_names, text_of
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in


def nondeterminism(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings in one function that an orchestrator runs."""
    yield from _tables(project, reached)
    module, function = reached.module, reached.function
    local = local_names(function)
    for nested in nodes(function):
        if isinstance(nested, ast.FunctionDef | ast.AsyncFunctionDef):
            local |= local_names(nested)
    parents = parents_in(function)
    aliases = module.aliases(nodes(function))
    paths = _paths(module, function, local)
    for node in nodes(function):
        if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            yield from _handed_on(module, node.values if isinstance(node, ast.Dict) else node.elts, local, reached)
        if isinstance(node, ast.Call):
            yield from _call(module, node, local, aliases, paths, reached)
        if isinstance(node, ast.Attribute | ast.Name):
            yield from _name(module, node, reached, parents)


def _call(
    module: Module,
    node: ast.Call,
    local: frozenset[str],
    aliases: dict[str, str],
    paths: frozenset[str],
    reached: Reached,
) -> Iterator[Finding]:
    yield from _passed(module, node, local, reached)
    yield from _zones(module, node, reached)
    yield from _factories(module, node, local, reached)
    name = module.resolve(node.func) or _method_called(module, node)
    base, _, rest = (name or "").partition(".")
    if base in aliases:
        name, local = f"{aliases[base]}.{rest}" if rest else aliases[base], local - {base}
    elif rest and base in module.objects and base not in local:
        name = f"{module.objects[base]}.{rest}"
    if _is_path_access(module, node.func, local, paths):
        yield finding_at(reached, node, "files", "a Path accesses the disk in an orchestrator", ACTIVITY)
        return
    if name is None:
        return
    first = name.partition(".")[0]
    if isinstance(node.func, ast.Name) and (node.func.id in local or node.func.id in module.functions):
        return
    if first in local and first not in module.names:
        return
    if name == "random.Random" and not node.args:
        yield finding_at(reached, node, "random", "Random() seeds itself from the clock", "pass a seed from the input")
        return
    forbidden = forbidden_call(name, len(node.args))
    if forbidden is not None:
        rule, remedy = forbidden
        yield finding_at(reached, node, rule, f"{name}() in an orchestrator", remedy)


def _method_called(module: Module, node: ast.Call) -> str | None:
    """Name of the function that a `methodcaller` call runs: `time.time` for `methodcaller("time")(time)`."""
    made = node.func
    if not isinstance(made, ast.Call) or not node.args or module.resolve(made.func) != "operator.methodcaller":
        return None
    base, name = module.resolve(node.args[0]), text_of(made.args[0]) if made.args else None
    return None if base is None or name is None else f"{base}.{name}"


def _passed(module: Module, node: ast.Call, local: frozenset[str], reached: Reached) -> Iterator[Finding]:
    """Findings for forbidden functions passed as arguments: `map(uuid4, ...)`, `partial(datetime.now)`."""
    yield from _handed_on(module, [*node.args, *(keyword.value for keyword in node.keywords)], local, reached)


def _handed_on(
    module: Module, values: Sequence[ast.expr], local: frozenset[str], reached: Reached
) -> Iterator[Finding]:
    for value in values:
        if not isinstance(value, ast.Name | ast.Attribute):
            continue
        name = module.resolve(value)
        if name is None or "." not in name or name.partition(".")[0] in local - module.names.keys():
            continue
        forbidden = forbidden_function(name)
        if forbidden is not None:
            yield finding_at(reached, value, forbidden[0], f"{name} is passed on in an orchestrator", forbidden[1])


def _tables(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings for forbidden functions called from a module's table: `TABLE[kind]()`."""
    own = {id(node) for node in nodes(reached.function)}  # its own tables are reported where they are defined
    for call in calls_in(reached.function):
        for home, value in project.tabled(reached.module, call.func, reached.function):
            if id(value) in own:
                continue
            name = home.resolve(value) if isinstance(value, ast.Name | ast.Attribute) else None
            forbidden = None if name is None or "." not in name else forbidden_function(name)
            if forbidden is not None:
                yield finding_at(
                    reached, call, forbidden[0], f"{name} of a table is called in an orchestrator", forbidden[1]
                )


def _zones(module: Module, node: ast.Call, reached: Reached) -> Iterator[Finding]:
    """Findings for times converted to or from the machine's time zone."""
    if not isinstance(node.func, ast.Attribute):
        return
    given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg in ("tz", None))]
    zones = [one for one in given if not (isinstance(one, ast.Constant) and one.value is None)]
    if node.func.attr == "astimezone" and not zones:
        yield finding_at(reached, node, ZONE[0], "astimezone() uses the machine's time zone", ZONE[1])
    elif module.resolve(node.func) == "datetime.datetime.fromtimestamp" and len(zones) < 2:
        yield finding_at(reached, node, ZONE[0], "fromtimestamp() uses the machine's time zone", ZONE[1])
    elif node.func.attr == "timestamp" and not given and _is_context_time(node.func.value, reached):
        what = "timestamp() reads the context's time, which has no zone, in the machine's zone"
        yield finding_at(
            reached, node, ZONE[0], what, "call it on ctx.current_utc_datetime.replace(tzinfo=timezone.utc)"
        )


def _is_context_time(node: ast.expr, reached: Reached) -> bool:
    if isinstance(node, ast.Name):
        values = [
            each.value
            for each in nodes(reached.function)
            if isinstance(each, ast.Assign) and any(is_named(target, node.id) for target in each.targets)
        ]
        return bool(values) and all(isinstance(one, ast.Attribute) and _is_context_time(one, reached) for one in values)
    return isinstance(node, ast.Attribute) and node.attr == "current_utc_datetime"


def _factories(module: Module, node: ast.Call, local: frozenset[str], reached: Reached) -> Iterator[Finding]:
    """Findings for fields of this module's dataclasses that a forbidden function fills at construction."""
    if not isinstance(node.func, ast.Name) or node.func.id in local or node.func.id not in module.classes:
        return
    for call in calls_in(module.classes[node.func.id]):
        for keyword in call.keywords:
            name = module.resolve(keyword.value) if keyword.arg == "default_factory" else None
            forbidden = None if name is None else forbidden_function(name)
            if forbidden is not None:
                what = f"{name} fills a field of {node.func.id} in an orchestrator"
                yield finding_at(reached, node, forbidden[0], what, forbidden[1])


def _is_path_access(module: Module, called: ast.expr, local: frozenset[str], paths: frozenset[str]) -> bool:
    """True for file access through a Path, such as `Path(...).read_text`. paths: local names that hold a Path."""
    if not isinstance(called, ast.Attribute) or called.attr not in PATH_METHODS:
        return False
    return _is_path(module, called.value, local, paths)


def _is_path(module: Module, node: ast.expr, local: frozenset[str], paths: frozenset[str]) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _is_path(module, node.left, local, paths)
    if isinstance(node, ast.Name):
        return node.id in paths or (node.id not in local and module.objects.get(node.id) == "pathlib.Path")
    return isinstance(node, ast.Call) and module.resolve(node.func) == "pathlib.Path"


def _paths(module: Module, function: ast.AST, local: frozenset[str]) -> frozenset[str]:
    """Local names that hold a Path."""
    found: set[str] = set()
    for node in nodes(function):
        if isinstance(node, ast.Assign) and _is_path(module, node.value, local, frozenset(found)):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _name(
    module: Module,
    node: ast.Attribute | ast.Name,
    reached: Reached,
    parents: dict[ast.AST, ast.AST],
) -> Iterator[Finding]:
    if isinstance(node, ast.Name) and (node.id not in module.names or isinstance(parents.get(node), ast.Attribute)):
        return
    name = module.resolve(node)
    forbidden = None if name is None else forbidden_name(name)
    if forbidden is not None:
        yield finding_at(reached, node, forbidden[0], f"{name} in an orchestrator", forbidden[1])
