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
        ("size(payload.l) < 0", "R013", "a size is a whole number from 0"),
        ("0 > payload.l.size()", "R013", "a size is a whole number from 0"),
        ("size(payload.l) == -1 && payload.b == 'x'", "R013", "a size is a whole number from 0"),
        ("size(payload.l) in [-1, -2]", "R013", "a size is a whole number from 0"),
        ("size(payload.l) > 3 && size( payload.l ) < 2", "R013", "`size(payload.l) > 3` && `size( payload.l ) < 2`"),
        ("size(payload.l) > 3 && size(payload.l) < 4", "R013", "a whole number"),
        ("size(payload.l) >= 0", "R012", "`size(payload.l) >= 0` always holds; a size is a whole number from 0"),
        ("payload.ok || size(payload.a + payload.b) > -1", "R012", "always holds"),
        ("payload.a.lowerAscii() == 'ABC'", "R013", "the text has no upper-case letters"),
        ("'ABC' == payload.?a.orValue('x').lowerAscii()", "R013", "the text has no upper-case letters"),
        ("payload.a.upperAscii() in ['abc', 'aBC']", "R013", "the text has no lower-case letters"),
        ("payload.a.lowerAscii() != 'ABC'", "R012", "always holds; the text has no upper-case letters"),
        ("payload.a.lowerAscii() == 'a' && payload.a.lowerAscii() == 'b'", "R013", "the text has no upper-case"),
        ("payload.a.lowerAscii().startsWith('ABC')", "R013", "the text has no upper-case letters"),
        ("payload.a.upperAscii().contains('x' + 'y')", "R013", "the text has no lower-case letters"),
        ("payload.a.lowerAscii().matches('^[A-Z]+-\\\\d+$')", "R013", "the text has no upper-case letters"),
        ("payload.a.trim() == ' a'", "R013", "no white space at its ends"),
        ("payload.a.trim().endsWith(' ')", "R013", "no white space at its ends"),
        ("payload.a.indexOf('x') < -1", "R013", "a position is a whole number from -1"),
        ("timestamp(payload.at).getMonth() == 12", "R013", "a month is a whole number from 0 to 11"),
        ("timestamp(payload.at).getHours() == 24", "R013", "an hour is a whole number from 0 to 23"),
        ("timestamp(payload.at).getDayOfWeek() in [7, 8]", "R013", "a day of the week"),
        ("math.abs(payload.n) < 0.0", "R013", "an absolute value"),
        ("payload.a.startsWith('ab') && payload.a.startsWith('b')", "R013", "cannot hold together"),
        ("payload.a.startsWith('')", "R012", "every text"),
        ("event.topic == 'oders'", "R013", "this rule gets only messages of the topic `orders`"),
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
        ("event.topic == 'orders'", {}),
        ("size(payload.l) > 3 && size(payload.l) < 5", {}),
        ("size(payload.l) > 3 && size(payload.m) < 2", {}),
        ("size(payload.l) > 0 || size(payload.m) > 0", {}),
        ("size(payload.l) == 0", {}),
        ("size(payload.l) - 1 < 0", {}),
        ("payload.n - size(payload.l) < 0", {}),
        ("-payload.l.size() < 0", {}),
        ("payload.b ? -1 : payload.l.size() < 0", {}),
        ("payload.size < 0", {}),
        ("payload.a.lowerAscii() == 'abc-Ä1'", {}),
        ("payload.a.lowerAscii() > 'A' && payload.a.lowerAscii() < 'a'", {}),
        ("payload.a.lowerAscii().matches('(?i)ABC')", {}),
        ("payload.a.lowerAscii().matches('A?[A-z]')", {}),
        ("payload.a.lowerAscii().matches('A|b')", {}),
        ("payload.a.lowerAscii().matches('[A-ZÄ]')", {}),
        ("payload.a.lowerAscii().matches('[^A-Z]')", {}),
        ("payload.a.trim() == 'a b'", {}),
        ("payload.a.trim().contains(' ')", {}),
        ("payload.a.indexOf('x') == -1", {}),
        ("duration(payload.d).getHours() == 24", {}),
        ("payload.d.getMinutes() > 90", {}),
        ("math.abs(payload.n) > 0.5 && math.abs(payload.n) < 0.6", {}),
        ("payload.a.startsWith('ab') && payload.a.startsWith('a')", {}),
        ("payload.a.contains('ab') && payload.a.contains('b')", {}),
        ("!payload.a.startsWith('ab') && payload.a.startsWith('b')", {}),
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


_NUMBERS = st.builds(
    "{} {} {}".format,
    st.sampled_from(["size(payload.s)", "payload.s.size()", "payload.s.indexOf('a')", "math.abs(payload.n)"]),
    st.sampled_from(["==", "!=", "<", ">=", ">", "<="]),
    st.sampled_from(["-2", "-1", "0", "1", "2"]),
)
_TEXT = st.builds("'{}'".format, st.text("aAbB 1", max_size=2))
_TEXT_CALL = st.sampled_from(["payload.s.lowerAscii()", "payload.s.upperAscii()", "payload.s.trim()", "payload.s"])
_PATTERN = st.sampled_from(["'^A'", "'[A-B]+'", "'a?b'", "'A|b'", "'(A)'", "'[aB]'"])
_TESTS = (
    st.builds("{} {} {}".format, _TEXT_CALL, st.sampled_from(["==", "!=", "<", ">"]), _TEXT)
    | st.builds("{}.{}({})".format, _TEXT_CALL, st.sampled_from(["startsWith", "endsWith", "contains"]), _TEXT)
    | st.builds("{}.matches({})".format, _TEXT_CALL, _PATTERN)
)


@given(
    st.recursive(
        _NUMBERS | _TESTS,
        lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
        max_leaves=4,
    ),
    st.text("aAbB 1\u212a", max_size=3),
    st.sampled_from([-1, 0, 1, 0.5, -2.0]),
)
def test_calls_that_hold_for_a_message_are_never_said_not_to_hold(when: str, text: str, number: float) -> None:
    rule = {"name": "a", "from": "orders", "when": when, "on_error": "no_match", "ignore": {}}
    found = [(code, what) for code, _, what in condition_findings(config(rule))]
    holds = bool(router(rule, source={"no_match": "ignore"}).route(envelope({"s": text, "n": number})).routes)
    if holds:
        assert not any(what.startswith("the condition never holds") for _, what in found), (when, text, number)
    elif "||" not in when and "&&" not in when and "math" not in when:
        assert not any(code == "R012" for code, _ in found), (when, text)
