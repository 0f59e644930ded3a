"""Regular expressions that are not valid, or match no text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import Problem
from bridge.routing import lint_patterns
from bridge.routing.regexes import matches_nothing
from tests.routing.config import config, locate, route, router


def found(when: str) -> list[Problem]:
    rule = route("a", when=when)
    return lint_patterns(config(rule, vars={"code": "[A-Z"}), router(rule, vars={"code": "[A-Z"}).compiled, locate)


@pytest.mark.parametrize(
    ("when", "code"),
    [
        ("payload.x.matches('[A-Z')", "R014"),
        ("matches(payload.x, '(')", "R014"),
        ("payload.x.matches(vars.code)", "R014"),
        ("payload.x.matches('a' + '{')  || payload.y.matches('a$b')", "R013"),
        ("payload.x.matches('a$b|c^d')", "R013"),
    ],
)
def test_patterns_that_never_match(when: str, code: str) -> None:
    ((problem),) = found(when)
    assert problem.code == code
    assert problem.path == "routes.0.when"


@pytest.mark.parametrize(
    "when",
    [
        "payload.x.matches('^[A-Z]{2}$')",
        "payload.x.matches(payload.y)",
        "payload.matches == 1",
        "payload.x.matches('a$|b')",
        "payload.x.matches('(a$)b?')",
        "payload.x.matches('a$b*')",
        "payload.x.matches('(?m)a$\\\\nb')",
    ],
)
def test_patterns_that_may_match(when: str) -> None:
    assert found(when) == []


_PIECES = st.lists(st.sampled_from(["a", "b", "^", "$", "a*", "b?", "[ab]", "(a)", "(b|a)?", "|", "\\b", "\\$", "."]))


@given(_PIECES.map("".join), st.text("ab$", max_size=4))
def test_a_pattern_that_matches_a_text_is_not_reported(pattern: str, text: str) -> None:
    try:
        # RE2 has no `$` before a final line end, and the texts have none
        matched = re.search(pattern, text) is not None
    except re.error:
        return
    assert not (matched and matches_nothing(pattern)), (pattern, text)
