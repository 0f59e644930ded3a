"""`.venv/tools/bin/python tests/deployment/bicep.py FILE`: content of a Bicep file as JSON, for tests.

The parser is of the environment of the tools. It knows the syntax; the types are checked with azure-types.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_bicep

EXPRESSION = "${...}"
FUNCTIONS = frozenset({
    "concat", "guid", "json", "loadTextContent", "resourceGroup", "string", "subscriptionResourceId", "uniqueString",
    "listKeys",
    "description", "allowed", "minLength", "maxLength", "minValue", "maxValue",
})  # fmt: skip
"""Functions and decorators that the files use."""
_DECLARATIONS = ("parameter_declaration", "variable_declaration", "resource_declaration", "output_declaration")


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.children:
        yield from nodes(child)


def text(node: Any) -> str:
    found: str = node.text.decode()
    return found


def values(node: Any) -> list[Any]:
    """Values that an expression may have; EXPRESSION for what is known at the deployment only."""
    match node.type:
        case "string":
            parts = node.named_children
            if any(part.type == "interpolation" for part in parts):
                return [EXPRESSION]
            return ["".join(text(part) for part in parts)]
        case "number":
            return [int(text(node))]
        case "boolean":
            return [text(node) == "true"]
        case "array":
            items = [child for child in node.named_children if child.type != "comment"]
            if len(items) == 1 and items[0].type == "for_statement":
                return values(items[0])
            return _product([values(item) for item in items])
        case "for_statement":
            return [[body] for body in values(node.named_children[-1])]
        case "ternary_expression":
            return [value for branch in node.named_children[1:] for value in values(branch)]
        case "parenthesized_expression" | "if_statement":
            return values(node.named_children[-1])
        case "object":
            pairs = [child.named_children for child in node.named_children if child.type == "object_property"]
            names = [_name(pair[0]) for pair in pairs]
            members = _product([values(pair[-1]) for pair in pairs])
            return [dict(zip(names, each, strict=True)) for each in members]
    return [EXPRESSION]


def _product(choices: list[list[Any]]) -> list[list[Any]]:
    """Enough combinations that each choice occurs."""
    longest = max((len(each) for each in choices), default=1)
    return [[each[min(at, len(each) - 1)] for each in choices] for at in range(longest)]


def _name(node: Any) -> str:
    return str(values(node)[0]) if node.type == "string" else text(node)


def problems(root: Any) -> Iterator[str]:
    """Errors of the syntax, and names that nothing declares."""
    declared = {text(each.named_children[_first(each)]) for each in nodes(root) if each.type in _DECLARATIONS}
    loops = [each for each in nodes(root) if each.type == "for_statement"]
    declared |= {
        text(name) for each in loops for name in (each.child_by_field_name("initializer"),) if name is not None
    }
    declared |= {text(each) for each in nodes(root) if each.type in ("loop_variable", "loop_enumerator")}
    known = declared | FUNCTIONS
    for node in nodes(root):
        line = node.start_point[0] + 1
        if node.type == "ERROR" or node.is_missing:
            yield f"line {line}: not valid Bicep: {text(node)[:50]}"
        if node.type == "identifier" and not _is_key(node) and text(node) not in known:
            yield f"line {line}: nothing declares {text(node)}"


def _first(declaration: Any) -> int:
    return next(at for at, child in enumerate(declaration.named_children) if child.type == "identifier")


def _is_key(node: Any) -> bool:
    return node.parent.type == "object_property" and node.parent.named_children[0] == node


def content(source: bytes) -> dict[str, Any]:
    root = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language())).parse(source).root_node
    resources = []
    for node in root.named_children:
        if node.type == "resource_declaration":
            name, kind, *_, body = node.named_children
            is_existing = any(child.type == "existing" for child in node.children)
            resources.append(
                {"name": text(name), "type": values(kind)[0], "existing": is_existing, "bodies": values(body)}
            )
    parameters = [
        text(node.named_children[_first(node)]) for node in root.named_children if node.type == _DECLARATIONS[0]
    ]
    variables = {
        text(node.named_children[0]): values(node.named_children[-1])
        for node in root.named_children
        if node.type == "variable_declaration"
    }
    return {
        "problems": list(problems(root)),
        "parameters": parameters,
        "variables": variables,
        "resources": resources,
    }


if __name__ == "__main__":
    print(json.dumps(content(Path(sys.argv[1]).read_bytes())))
