"""References to None that the CEL library consumes."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import RouteScope
from tests.routing.config import envelope, locate

COUNT = 2000
OTHERS = COUNT // 2
"""References to None that other threads and caches may take or release meanwhile."""


@pytest.mark.parametrize(
    ("source", "payload"),
    [
        ("[payload.a]", {"a": None}),
        ("[payload.a, null]", {"a": [None, [None, {"b": None}]]}),
        ("{'x': payload.a}", {"a": {"b": None, "c": {"d": None}}}),
        ("payload.?b.orValue(payload.a)", {"a": None}),
        ("payload.a.map(i, i)", {"a": [None, None]}),
        ("payload.a.map(k, payload.a[k])", {"a": {"b": None}}),
        ("true ? null : payload.a", {"a": 1}),
    ],
)
@pytest.mark.parametrize("use", ["value", "text", "condition"])
def test_results_with_nulls_take_no_references(source: str, payload: dict[str, Any], use: str) -> None:
    compiler = Compiler(locate)
    expression = compiler.value(source, ("x",), "here")
    assert expression is not None, compiler.problems
    message = envelope(payload)
    spare = [None] * (COUNT * 10)  # without them an error here ends the interpreter
    gc.collect()
    before = sys.getrefcount(None)
    for _ in range(COUNT):
        try:
            getattr(expression, use)(RouteScope(message, message.data, {}))
        except Exception:
            assert use != "value"
    gc.collect()
    assert abs(sys.getrefcount(None) - before) < OTHERS
    del spare
