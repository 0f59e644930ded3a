"""Translation of pydantic's errors into messages for users, at the place where the value is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.config.model.types import format_duration, parse_duration
from bridge.config.model_fields import is_secret, keys_at
from bridge.config.yaml.node import ALIASES, MappingNode, Node, ScalarNode, SequenceNode, find, key_mark, kind, place
from bridge.core.errors import ConfigPath, Problem

_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping",
    "model": "a mapping",
    "mapping": "a mapping",
    "list": "a list",
    "tuple": "a list",
}
_PLAIN = re.compile(r"[\w.]{1,60}")
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
REQUIRED = {
    "engines": "at least one engine is needed, like `engine: {type: embedded}`",
    "brokers": "at least one broker is needed, like `brokers: {local: {type: local}}`",
}
"""Required sections, with the message for a missing one."""

RENAMED_KEYS = {"park": "wait", "parking": "early_messages"}
"""Keys of earlier versions, with the keys that replace them."""

_FORMS = "; or `{wait: 1h}` to let the message wait, or `{start: ORCHESTRATION}` to start the instance"
_MEANINGS = {
    "no_match": "; write `dead_letter` or `ignore`, for messages that no rule matches",
}
"""Values of required keys, for the message about a missing one."""

_EXPRESSIONS = ("when", "for_each", "input", "data", "output", "result", "refused", "failed")
"""Keys whose value is an expression."""

_LONGEST_SHOWN = 60
_NAME_RULE = (
    "must begin with a letter or digit and hold only letters, digits, dots, dashes and underscores (at most 128)"
)
_SECTIONS_OF_TYPES = ("brokers", "engines")


def translate(error: ValidationError, root: MappingNode) -> list[Problem]:
    """Problems of a validation, in the order of the file."""
    details = [(_path(root, detail["loc"]), detail) for detail in error.errors(include_url=False)]
    untyped = {path[:2] for path, detail in details if _is_about_type(path, detail)}
    return [
        _problem(root, path, detail)
        for path, detail in details
        # Without a known type, the other keys of an engine or broker cannot be checked
        if (path[:2] not in untyped or _is_about_type(path, detail)) and not is_echo(root, path, detail)
    ]


def paths(error: ValidationError, root: Node, entry: ConfigPath) -> list[tuple[ConfigPath, bool]]:
    """Paths of the problems of a validation of the entry at a path, each with True if a key is missing there."""
    details = error.errors(include_url=False)
    return [(_path(root, (*entry, *detail["loc"])), detail["type"] == "missing") for detail in details]


def is_echo(root: Node, path: ConfigPath, detail: ErrorDetails) -> bool:
    """True for a problem that only repeats another one.

    Pydantic counts a list as too short when its entries are invalid, and a renamed key as missing.
    """
    if detail["type"] == "missing" and isinstance(parent := find(root, path[:-1]), MappingNode):
        return any(RENAMED_KEYS.get(key) == path[-1] for key in parent.entries)
    node = find(root, path)
    return detail["type"] == "too_short" and isinstance(node, SequenceNode) and bool(node.items)


def _is_about_type(path: ConfigPath, detail: ErrorDetails) -> bool:
    if len(path) < 2 or path[0] not in _SECTIONS_OF_TYPES:
        return False
    return detail["type"].startswith("union_tag") or (path[2:] == ("type",) and detail["type"] != "extra_forbidden")


def _path(root: Node, loc: Sequence[str | int]) -> ConfigPath:
    """Pydantic's location in the words of the file, without the parts added for unions and keys."""
    path: list[str | int] = []
    node: Node | None = root
    for index, part in enumerate(loc):
        if part == "[key]":
            continue
        if index == 2 and path[0] in _SECTIONS_OF_TYPES and isinstance(node, MappingNode):
            tag = node.entries.get("type")
            if isinstance(tag, ScalarNode) and tag.value == part and (len(loc) > 3 or part not in node):
                continue
        if path[:1] == ["routes"] and len(path) == 4 and path[2] == "match" and isinstance(node, ScalarNode):
            continue
        if path[:1] == ["routes"] and len(path) == 4 == index and path[3] == "on_missing":
            continue  # the kind of the rule
        written = isinstance(node, MappingNode) and part in node
        path.append(part if written or isinstance(part, int) else ALIASES.get(part, part))
        node = find(node, (part,)) if node is not None else None
    return tuple(path)


def _problem(root: MappingNode, path: ConfigPath, detail: ErrorDetails) -> Problem:
    node = find(root, path)
    mark = place(root, path)
    parent = find(root, path[:-1])
    if isinstance(parent, MappingNode) and detail["loc"][-1:] == ("[key]",):
        mark = key_mark(parent, str(path[-1]))
    elif detail["type"] == "extra_forbidden" and isinstance(parent, MappingNode):
        mark = key_mark(parent, str(path[-1]))
        return mark.problem(path, *_unknown(parent, path))
    what = describe(path, detail, node)
    if isinstance(node, ScalarNode) and node.variables:
        what = _discreet(what, node)
    return mark.problem(path, what, _code(detail["type"], node))


def _code(kind: str, node: Node | None) -> str:
    """Code of a problem. kind: pydantic's name of it."""
    if kind in ("missing", "union_tag_not_found"):
        return "C004"
    # Only a rule about several keys refuses a mapping with an error of its own
    return "C006" if kind == "value_error" and isinstance(node, MappingNode) else "C005"


def _unknown(parent: MappingNode, path: ConfigPath) -> tuple[str, str]:
    """Error text and code for a key that its mapping cannot hold."""
    tag = parent.entries.get("type")
    chosen = tag.value if isinstance(tag, ScalarNode) and isinstance(tag.value, str) else None
    known = keys_at(path[:-1], chosen)
    if not path[:-1]:
        known += ["engine", "defaults"]
    if path[-1] in known:  # another form of this mapping has the key
        others = ", ".join(f"`{key}`" for key in parent.entries if key != path[-1])
        return f"`{path[-1]}` cannot be combined with {others}", "C006"
    return unknown_key(str(path[-1]), known), "C003"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Error text for a key that none of the known ones is. A renamed key names its successor."""
    successor = RENAMED_KEYS.get(key)
    if successor in known:
        return f"`{key}` is now `{successor}`"
    return f"unknown key `{key}`{suggestion(key, known)}"


def suggestion(word: str, known: Sequence[str]) -> str:
    """Hint for an unknown word: `; did you mean ...?`, or the list of known words."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known: {', '.join(known)}" if known else ""


def describe(path: ConfigPath, detail: ErrorDetails, node: Node | None) -> str:
    """Text about a problem of a validation, without its place. node: written value, if there is one."""
    code, context = detail["type"], detail.get("ctx", {})
    base = code.split("_")[0]
    if code in ("missing", "too_short") and len(path) == 1 and path[0] in REQUIRED:
        return REQUIRED[str(path[0])]
    if code == "missing":
        return f"the key `{path[-1]}` is missing{_MEANINGS.get(str(path[-1]), '')}"
    if code == "union_tag_not_found":
        return "the key `type` is missing"
    if code in ("literal_error", "enum", "union_tag_invalid"):
        return _choice(path, detail, node)
    if code == "string_pattern_mismatch":
        return "is not the name of a Python module" if path[0] == "workflows" else _pattern(path)
    if code in ("too_short", "string_too_short"):
        return _too_short(code)
    if code == "value_error":
        return str(context.get("error", detail["msg"]))
    if code in _BOUNDS:
        words, key = _BOUNDS[code]
        return f"must be {words} {_bound(context.get(key), node)}{_found(path, node)}"
    if base in _EXPECTED and code.endswith(("_type", "_parsing", "_from_float", "_size", "_not_finite")):
        hint = ""
        if base == "string" and path[-1] in _EXPRESSIONS and isinstance(node, MappingNode | SequenceNode):
            hint = "; it is CEL in quotes, like `" + _as_text(node) + "`"
        elif base == "string" and path[-1] == "when":
            hint = "; it is a condition in CEL, like `payload.total > 100`"
        elif base == "string" and isinstance(node, ScalarNode) and node.value is not None:
            hint = "; write a number with a unit, like `10s`" if path[-1] == "delay" else "; put it in quotes"
        return f"expected {_EXPECTED[base]}{_found(path, node)}{hint}"
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _as_text(node: MappingNode | SequenceNode) -> str:
    """Mapping or list with plain text, written as an expression in quotes; an example for any other."""
    if isinstance(node, SequenceNode):
        return '"[payload.id]"'
    parts = [(key, value.value) for key, value in node.entries.items() if isinstance(value, ScalarNode)]
    texts = [f"'{key}': {value}" for key, value in parts if isinstance(value, str) and _PLAIN.fullmatch(value)]
    whole = len(texts) == len(node.entries) and all(_PLAIN.fullmatch(key) for key, _ in parts)
    shown = ", ".join(texts) if texts and whole else "'id': payload.id"
    return f'"{{{shown}}}"'


def _bound(limit: Any, node: Node | None) -> Any:
    """Limit as users write it; for a duration, with a unit."""
    return format_duration(limit) if _is_duration(node) else limit


def _is_duration(node: Node | None) -> bool:
    try:
        return isinstance(node, ScalarNode) and parse_duration(node.value) >= 0
    except ValueError:
        return False


def _choice(path: ConfigPath, detail: ErrorDetails, node: Node | None) -> str:
    context = detail.get("ctx", {})
    expected = str(context.get("expected") or context.get("expected_tags") or "")
    known = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
    forms = _FORMS if path[-1:] == ("on_missing",) and "reply" not in path else ""
    if isinstance(node, MappingNode):
        node = node.entries.get("type")
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or _hidden(path, node):
        return f"must be one of {', '.join(known)}{forms}"
    if _is_about_type(path, detail):
        return f"unknown type `{_short(node.value)}`; known types: {', '.join(known)}"
    near = difflib.get_close_matches(node.value, known, n=1, cutoff=0.6)
    guess = f"; did you mean `{near[0]}`?" if near else forms
    return f"must be one of {', '.join(known)}; found `{_short(node.value)}`{guess}"


def _pattern(path: ConfigPath) -> str:
    return "must be `module:function`" if path[-1:] == ("map",) else f"a name {_NAME_RULE}"


def _too_short(code: str) -> str:
    return "must not be empty" if code == "string_too_short" else "must have at least one entry"


def _hidden(path: ConfigPath, node: ScalarNode) -> bool:
    return node.secret or bool(node.variables) or is_secret(path)


def _found(path: ConfigPath, node: Node | None) -> str:
    if node is None:
        return ""
    if isinstance(node, MappingNode | SequenceNode) or node.value is None or _hidden(path, node):
        return f", found {kind(node)}"
    value = str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
    what = "" if _is_duration(node) else f" {kind(node)}:"
    return f", found{what} {_short(value)}"


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 1] + "…"


def _discreet(what: str, node: ScalarNode) -> str:
    """Problem text without the value, which came from the environment or from a secret file."""
    value = str(node.value)
    if value:
        what = what.replace(repr(value), "this")
        if value in what:
            what = "the value is not valid here"
    return f"{what} (from ${{{node.variables[0]}}})"
