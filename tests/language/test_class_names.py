"""One meaning for the name of a class."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.kit.source import trees, walk

SAME_PART = {"Commits", "Connection", "Meaning"}
"""Names that two brokers have for the same part of their own."""


def test_a_class_name_stands_for_one_thing() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees():
        for node in walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.as_posix())
    several = {name: places for name, places in found.items() if len(places) > 1}
    assert several.keys() == SAME_PART, {name: several[name] for name in several.keys() - SAME_PART}
    assert all(place.startswith("brokers/") for name in SAME_PART for place in several[name])
