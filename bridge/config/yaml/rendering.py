"""Effective configuration as YAML with the origin of every value. Secrets are masked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.yaml.node import MASK, FilePosition, Node, ScalarNode, child, without_credentials

_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.[A-Za-z_/])[A-Za-z0-9_./@+-]*")
_DURATION = re.compile(r"[0-9]+(?:ms|s|m|h|d|KiB|MiB|GiB)")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf"))


def masked(config: BridgeConfig, root: Node) -> Any:
    """Plain values of a configuration, with the keys used in files and secrets masked."""
    return _masked(config.model_dump(mode="json", by_alias=True), root)


def _masked(value: Any, node: Node | None) -> Any:
    if isinstance(node, ScalarNode) and node.secret:
        return MASK
    if isinstance(value, dict):
        return {key: _masked(part, child(node, key) if node else None) for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part, child(node, index) if node else None) for index, part in enumerate(value)]
    return without_credentials(value) if isinstance(value, str) else value


def render(config: BridgeConfig, root: Node) -> str:
    """YAML text with a comment after every value: `file:line`, `environment` or `default`.

    Null values that are not written are omitted. Parsed as a file, the text gives the same configuration without the
    secrets.
    """
    return "\n".join(_lines(masked(config, root), root, None, "", "")) + "\n"


def _lines(value: Any, node: Node | None, mark: FilePosition | None, indent: str, lead: str) -> Iterator[str]:
    """Lines of a value. lead: text before the value in its first line: a key, a dash, or both."""
    if isinstance(value, dict):
        value = {key: part for key, part in value.items() if part is not None or _written(node, key)}
    if isinstance(value, dict) and value:
        if lead and not lead.endswith("- "):
            yield lead
            lead = ""
        for key, part in value.items():
            inner = child(node, key) if node is not None else None
            head = f"{lead or indent}{_text(key)}:"
            lead = ""
            deeper = indent if isinstance(part, list) else indent + "  "
            yield from _lines(part, inner, inner.mark if inner is not None else None, deeper, head)
    elif isinstance(value, list) and value:
        yield lead.rstrip()
        for index, part in enumerate(value):
            inner = child(node, index) if node is not None else None
            written = inner if inner is not None else node if isinstance(node, ScalarNode) else None
            yield from _lines(part, written, written.mark if written else None, indent + "    ", f"{indent}  - ")
    else:
        space = "" if lead.endswith(" ") else " "
        yield f"{lead}{space}{_text(value)}  # {_origin(node, mark)}"


def _written(node: Node | None, key: str) -> bool:
    return node is not None and child(node, key) is not None


def _origin(node: Node | None, mark: FilePosition | None) -> str:
    if node is None or mark is None:
        return "default"
    if isinstance(node, ScalarNode) and node.variables:
        return f"environment {', '.join(node.variables)}, {mark}"
    return str(mark)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    text = value.replace("${", "$${")
    # Words that parsers of older YAML read as a boolean or a date are quoted too
    if (_PLAIN.fullmatch(text) and text.lower() not in _WORDS) or _DURATION.fullmatch(text):
        return text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
