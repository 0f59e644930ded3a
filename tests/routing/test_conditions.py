"""Conditions that are constant or never hold, and those that only look like it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.routing.conditions import condition_findings, split
from tests.routing.config import config, envelope, route, router

VARS = {"large": 5.0, "switch": True, "names": ["a", "b"]}


def found(when: str, match: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    rule = route("a", when=when, match=match or {})
    return [(code, what) for code, _, what in condition_findings(config(rule, vars=VARS))]


@pytest.mark.parametrize(
    ("when", "code", "text"),
    [
        ("true", "R012", "always true; remove it"),
        ("1 == 2", "R012", "always false; the rule never matches"),
        ("1 / 0 > 1", "R012", "always fails: division by zero"),
        ("vars.large", "R015", "always a decimal number"),
        ("'paid'", "R015", "always text"),
        ("payload.a && vars.large", "R015", "`vars.large` is always a decimal number"),
        ("payload.a != 'x' || payload.a != 'y'", "R012", "always holds"),
        ("payload.n > 5 || payload.n <= 5", "R012", "always holds"),
        ("payload.a == 'x' && payload.a == 'y'", "R013", "cannot hold together"),
        ("payload.n > 5 && payload.n < 3", "R013", "cannot hold together"),
        ("3 > payload.n && payload.n > 5.5", "R013", "cannot hold together"),
        ("payload.a in ['x', 'y'] && payload.a == 'z'", "R013", "cannot hold together"),
        ("payload.a in vars.names && payload.a.startsWith('c')", "R013", "cannot hold together"),
        ("payload.a == 'x' && size(payload.a) > 3", "R013", "cannot hold together"),
        ("has(payload.a) && !has(payload.a)", "R013", "both true and false"),
        ("payload.ok == true && !payload.ok", "R013", "cannot hold together"),
        ("event.type == 5", "R013", "event.type is text"),
        ("event.headers['a'] == 'x' || event.key == 5", "R013", "a part of the condition never holds: event.key is"),
        ("(payload.a == 1 && payload.a == 2) || payload.b", "R013", "a part of the condition"),
        ("payload.a == 'x' && false", "R013", "`false` is false"),
    ],
)  # fmt: skip
def test_conditions_that_say_nothing(when: str, code: str, text: str) -> None:
    ((got, what),) = found(when)
    assert got == code
    assert text in what


@pytest.mark.parametrize(
    ("when", "match"),
    [
        ("event.type == 'b'", {"type": "a"}),
        ("event.type.startsWith('x')", {"type": ["a", "b"]}),
        ("payload.kind == 'x' && payload.n > 1", {"payload.kind": "y"}),
        ("event.headers['region'] != 'eu'", {"headers.region": "eu"}),
        ("payload.n > 5", {"payload.n": [1, 2.5]}),
    ],
)
def test_conditions_that_match_excludes(when: str, match: dict[str, Any]) -> None:
    ((code, what),) = found(when, match)
    assert code == "R013"
    assert "`match` lets only" in what


@pytest.mark.parametrize(
    ("when", "match"),
    [
        ("vars.switch", {}),
        ("vars.switch && payload.total > 1", {}),
        ("payload.n > 5 && payload.n < 6", {}),
        ("payload.n >= 5 && payload.n <= 5", {}),
        ("payload.a == 'x' || payload.a == 'y'", {}),
        ("payload.a != 'x' && payload.a != 'y'", {}),
        ("payload.a != 'x' && payload.a.startsWith('zz')", {}),
        ("payload.a == 'x' && payload.b == 'y'", {}),
        ("payload.list[0] == 1 && payload.list[1] == 2", {}),
        ("payload.?a.orValue('x') == 'x'", {"payload.a": "x"}),
        ("payload.a ? payload.b == 'x' && payload.b == 'y' : true", {}),
        ("payload.lines.exists(line, line == 'x') && payload.lines.exists(line, line == 'y')", {}),
        ("event.type == 'a'", {"type": "a"}),
        ("payload.n == 5.0", {"payload.n": 5}),
        ("payload.n > 5.0", {"payload.n": 6}),
        ("event.partition == 3", {}),
        ("event.subject == null || event.subject == 'x'", {}),
        ("payload.at.getHours('/dev/stdin') == 1", {}),
        ("timestamp('2030-01-01T00:00:00Z').getHours('/dev/stdin') == 1", {}),
        ("payload.total =! 5", {}),
        ("(" * 2000 + "payload.a" + ")" * 2000, {}),
    ],
)
def test_conditions_that_may_hold(when: str, match: dict[str, Any]) -> None:
    assert found(when, match) == []


def test_an_expensive_constant_is_not_evaluated() -> None:
    assert found("'aaaaaaaa'" + ".replace('a', 'aaaaaaaa')" * 8 + " == 'b'") == []
    loop, several = "a + b + c == -1", f"[{', '.join(map(str, range(60)))}]"
    for name in ("a", "b", "c"):
        loop = f"{several}.exists({name}, {loop})"
    assert found(loop) == []


def test_operands() -> None:
    assert split("a && (b || c) && f('&&')", "&&") == ["a", "(b || c)", "f('&&')"]
    assert split("((a || b))", "||") == ["a", "b"]
    assert split("a || b && c", "&&") == ["a || b && c"]
    assert split("a ? b && c : d", "&&") == ["a ? b && c : d"]
    assert split("a.?b && a[?'c']", "&&") == ["a.?b", "a[?'c']"]


_VALUES = st.sampled_from(["1", "2", "2.5", "'a'", "'b'", "true", "null"])
_COMPARISON = st.builds(
    "payload.{} {} {}".format,
    st.sampled_from(["x", "y"]),
    st.sampled_from(["==", "!=", "<", ">=", ">", "<="]),
    _VALUES,
)
_CONDITIONS = st.recursive(
    _COMPARISON,
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
    max_leaves=5,
)


@given(_CONDITIONS, st.fixed_dictionaries({name: st.sampled_from([0, 1, 2, 2.5, 3, "a", "b", "c", True, False, None])
                                           for name in ("x", "y")}))  # fmt: skip
def test_a_condition_that_holds_for_a_message_is_never_said_not_to_hold(when: str, payload: dict[str, Any]) -> None:
    rule = {"name": "a", "from": "orders", "when": when, "on_error": "no_match", "ignore": {}}
    findings = [what for _, _, what in condition_findings(config(rule))]
    source = {"no_match": "ignore"}
    holds = bool(router(rule, source=source).route(envelope(payload)).routes)
    if holds:
        assert not any(what.startswith("the condition never holds") for what in findings), (when, payload, findings)
