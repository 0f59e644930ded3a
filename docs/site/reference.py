"""Pages of the reference that are generated from the code.

`python -m docs.site.reference cli > docs/cli.md`; also `python` for docs/python-api.md and `requests` for
docs/requests.md.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from bridge.app.operations import openapi
from bridge.app.operations.table import OPERATIONS
from bridge.cli import root

_WIDTH = 100
_RUFF = str(Path(sys.executable).with_name("ruff"))
_MODULES = ("bridge.workflow", "bridge.testing")
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_KEPT = ("property", "classmethod", "staticmethod", "dataclass", "contextmanager")
"""Decorators that a caller has to know."""
_ITEM = re.compile(r"^(`?\w+`?(?:, `?\w+`?)*): (?=\S)")
"""Line of a docstring about parameters, attributes or errors."""


def cli() -> str:
    """Reference of the commands: their help."""
    lines = [
        "# Commands",
        "",
        "This page contains the help of every command. It is generated: `python -m docs.site.reference cli`.",
        "",
    ]
    for name, command, context in _commands(root, click.Context(root, info_name="bridge", terminal_width=_WIDTH)):
        lines += [f"{'#' * (name.count(' ') + 2)} {name}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(child, click.Context(child, context, name, terminal_width=_WIDTH))


def requests() -> str:
    """Reference of the requests of the API: path, role, effect, names of the parameters."""
    lines = [
        "# Requests",
        "",
        "This page lists every request of the [API](api.md), on the ops port and on the",
        "[control socket](control-channel.md), whose page explains some parameters. It is for everybody who writes",
        "scripts against a daemon. `GET` takes parameters in the query, `POST` in a JSON object; **bold** ones are",
        "required. Each request also takes `engine` (a name in the configuration) and `reason` (for the audit).",
        "`GET /api/v1/openapi.json` has the types of parameters and answers.",
        "",
        "The page is generated: `python -m docs.site.reference requests`.",
        "",
        "| Request | Role | Effect | Parameters |",
        "|---|---|---|---|",
    ]
    for path, methods in openapi.document(OPERATIONS)["paths"].items():
        for method, one in methods.items():
            given = ", ".join(_parameters(one))
            lines.append(f"| `{method.upper()} {path}` | {one['x-role']} | {one['summary'].rstrip('.')} | {given} |")
    return "\n".join(lines) + "\n"


def _parameters(one: Mapping[str, Any]) -> Iterator[str]:
    """Names of the parameters in Markdown, without those of the path."""
    given = {each["name"]: each["required"] for each in one.get("parameters", ()) if each["in"] == "query"}
    if "requestBody" in one:
        body = one["requestBody"]["content"]["application/json"]["schema"]
        given |= {name: name in body.get("required", ()) for name in body["properties"]}
    for name, required in given.items():
        if required or name not in ("engine", "reason"):
            yield f"**`{name}`**" if required else f"`{name}`"


def python() -> str:
    """Reference of the Python interfaces: names, signatures with types, docstrings."""
    lines = [
        "# Python interfaces",
        "",
        "This page describes every public name of "
        + " and ".join(f"[`{module}`](#{module.replace('.', '')})" for module in _MODULES)
        + ", with its types. It is for authors of workflows and tests. [Workflow kit](workflow-kit.md) and "
        + "[Testing](testing.md) show the use. The page is generated: `python -m docs.site.reference python`.",
        "",
    ]
    for module in map(import_module, _MODULES):
        lines += [f"## {module.__name__}", "", *_text(inspect.getdoc(module)), ""]
        definitions = _definitions(module)
        for name in sorted(module.__all__, key=str.lower):
            lines += [f"### {name}", "", *_member(name, getattr(module, name), definitions.get(name)), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"


def _definitions(module: ModuleType) -> dict[str, ast.stmt]:
    """Definitions of the names that a package imports from its modules. Classes may name another module at run time."""
    found: dict[str, ast.stmt] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bridge."):
            names = {alias.name for alias in node.names}
            tree = ast.parse(inspect.getsource(import_module(node.module or "")))
            for each in tree.body:
                if isinstance(each, _Definition):
                    name = each.name
                elif isinstance(each, ast.AnnAssign | ast.Assign):
                    name = ast.unparse(each.target if isinstance(each, ast.AnnAssign) else each.targets[0])
                else:
                    continue
                if name in names:
                    found[name] = each
    return found


def _member(name: str, value: Any, node: ast.stmt | None) -> Iterator[str]:
    if node is None:
        yield f"Former name of [`{value.__name__}`](#{value.__name__.lower()})."
    elif isinstance(node, ast.AnnAssign | ast.Assign):
        yield from _code(node)
    elif isinstance(node, ast.ClassDef):
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        texts = {each.name: ast.get_docstring(each) for each in methods}
        public = [each for each in node.body if _is_public(each)]
        yield from _code(ast.ClassDef(node.name, node.bases, node.keywords, public or [_nothing()], _decorators(node)))
        yield from _text(ast.get_docstring(node))
        for each in methods:
            if each in public and (text := texts[each.name]):
                yield from ("", f"#### {name}.{each.name}", "", *_text(text))
    else:
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        text = ast.get_docstring(node)
        _is_public(node)
        yield from _code(node)
        yield from _text(text)


def _is_public(node: ast.stmt) -> bool:
    """True for a member that callers use. A function loses its body, and decorators that callers need not know."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if node.name.startswith("_") and node.name not in ("__init__", "__enter__"):
            return False
        node.decorator_list = _decorators(node)
        node.body = [_nothing()]
        return True
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return not node.target.id.startswith("_")
    return isinstance(node, ast.Assign) and not ast.unparse(node.targets[0]).startswith("_")


def _decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    return [each for each in node.decorator_list if ast.unparse(each).partition("(")[0].rpartition(".")[2] in _KEPT]


def _nothing() -> ast.stmt:
    return ast.Expr(ast.Constant(...))


def _code(node: ast.stmt) -> Iterator[str]:
    code = ast.unparse(ast.fix_missing_locations(node))
    command = [_RUFF, "format", "--isolated", "--line-length=120", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=True)
    yield from ("```python", *done.stdout.rstrip().splitlines(), "```", "")


def _text(docstring: str | None) -> Iterator[str]:
    """Lines of a docstring in Markdown: entries about parameters as a list, indented lines as code."""
    inside = False
    previous = ""
    for line in (docstring or "").splitlines():
        is_code = line.startswith("  ") and (inside or not previous.strip())
        if is_code and not inside:
            yield from ("", "```")
        elif inside and line.strip() and not is_code:
            yield from ("```", "")
            inside = False
        inside = inside or is_code
        found = None if inside else _ITEM.match(line)
        if found is not None:
            name = found[1] if "`" in found[1] or found[1][0].isupper() else f"`{found[1].replace(', ', '`, `')}`"
            if not previous.startswith("- ") and not _ITEM.match(previous):
                yield ""
            yield f"- {name}: {line[found.end() :]}"
        elif inside:
            yield line.removeprefix("  ").removeprefix("  ")
        else:
            yield f"  {line}" if line and _ITEM.match(previous) else line
        previous = line if found is not None or not _ITEM.match(previous) or not line else previous
    if inside:
        yield "```"


if __name__ == "__main__":
    sys.stdout.write({"cli": cli, "python": python, "requests": requests}[sys.argv[1]]())
