"""Check of booleans: text that only other versions of YAML read as true or false is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model_fields import models_in
from bridge.config.yaml.node import Node, ScalarNode, find
from bridge.core.errors import Locate, Problem
from bridge.core.problems.codes import coded

_WORDS = ("yes", "no", "on", "off")

TRUE = ("yes", "on", "y", "t", "1")
FALSE = ("no", "off", "n", "f", "0")


def check(config: BridgeConfig, root: Node, locate: Locate) -> Iterator[Problem]:
    """Problems of booleans that are written as another word than true or false."""
    for path, model in models_in(config):
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if value is not True and value is not False:
                continue
            here = (*path, field.alias or name)
            node = find(root, here)
            written = node.value if isinstance(node, ScalarNode) and not node.variables else value
            # In an invalid part the model has a default instead of the value that is written
            if isinstance(written, bool) or (isinstance(written, str) and written.strip().lower() in ("true", "false")):
                continue
            word = str(value).lower()
            shown = f"`{written}` is not a boolean" if str(written).lower() in TRUE + FALSE else "not a boolean"
            yield coded("C015", locate(here, f"{shown} in YAML 1.2; write `{word}`"))
    yield from _words(config, root, locate)


def _words(config: BridgeConfig, root: Node, locate: Locate) -> Iterator[Problem]:
    """Problems of words in `match` that other versions of YAML read as booleans. Attributes and headers are text."""
    for position, route in enumerate(config.routes):
        for key, wanted in route.match.items():
            if not key.startswith(("payload.", "extensions.")):
                continue
            several = wanted if isinstance(wanted, tuple) else (wanted,)
            for index, value in enumerate(several):
                if not isinstance(value, str) or value.lower() not in _WORDS:
                    continue
                here = ("routes", position, "match", key, *((index,) if isinstance(wanted, tuple) else ()))
                node = find(root, here)
                if isinstance(node, ScalarNode) and node.plain:
                    boolean = "true" if value.lower() in TRUE else "false"
                    what = f"`{value}` is text in YAML 1.2; write `{boolean}` for the boolean, or quote the text"
                    yield coded("R025", locate(here, what))
