from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import ExpressionError
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import RouteScope
from bridge.routing.cel.template import Template, compile_template, constant_prefix
from tests.routing.config import envelope, locate


def compiled(text: str) -> Template:
    compiler = Compiler(locate)
    template = compile_template(text, ("x",), "here", compiler)
    assert template is not None, compiler.problems
    return template


def render(text: str, data: Any = None) -> str:
    message = envelope(data)
    return compiled(text).render(RouteScope(message, message.data, {}))


def refused(text: str) -> str:
    compiler = Compiler(locate)
    assert compile_template(text, ("x",), "here", compiler) is None
    return compiler.problems[0].what


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        ("", ""),
        ("{{ x }}", "{{ x }}"),
        (7, "7"),
        (-7, "-7"),
        (2**70, "1180591620717411303424"),
        (True, "true"),
        (False, "false"),
        (5.0, "5"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (12.50, "12.5"),
        (1e20, "1e+20"),
        (1e-7, "1e-07"),
    ],
)
def test_values_are_written_plainly(value: Any, text: str) -> None:
    assert render("x-{{ payload.v }}-y", {"v": value}) == f"x-{text}-y"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        ({"a": 1}, "a map"),
        ([1], "a list"),
        (b"x", "bytes"),
        (float("nan"), "NaN or an infinite"),
        (float("inf"), "NaN or an infinite"),
        pytest.param(10**5000, "so many digits", id="digits"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_is_not_text_is_an_error(value: Any, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as raised:
        render("x-{{ payload.v }}", {"v": value})
    assert str(raised.value).startswith("here: ")


def test_times_are_written_as_in_json() -> None:
    assert render("{{ timestamp('2030-01-31T10:00:00+02:00') }}/{{ duration('90s') }}") == "2030-01-31T08:00:00Z/90s"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a }} b } c", "a }} b } c"),
        ("{{ '{{' }}{{ '}}' }}", "{{}}"),
        ("{{{'a': {'b': 'x'}}.a.b}}", "x"),
        ("{{ payload.id }}{{ payload.id }}", "o-1o-1"),
        ("é-{{ payload.id }}\n", "é-o-1\n"),
    ],
)
def test_text_and_braces(text: str, rendered: str) -> None:
    assert render(text) == rendered


@given(st.text(st.characters(blacklist_categories=["Cs"])).filter(lambda text: "{{" not in text))
def test_a_text_without_braces_is_itself(text: str) -> None:
    assert compiled(text).literal == text
    assert render(text) == text


@given(st.lists(st.one_of(st.text("ab{}'\" ", max_size=4), st.integers(0, 9)), max_size=5))
def test_any_mixture_of_text_and_expressions(parts: list[str | int]) -> None:
    """Text parts become string literals inside the braces, which may hold braces and quotes."""

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '\\"') + '"'

    template = "-".join("{{ " + (str(part) if isinstance(part, int) else quoted(part)) + " }}" for part in parts)
    assert render(template) == "-".join(map(str, parts))


@given(st.text("{}'\"\\/ap.\n 1", max_size=20))
def test_hostile_templates_never_crash(text: str) -> None:
    compiler = Compiler(locate)
    template = compile_template(text, ("x",), "here", compiler)
    assert (template is None) == bool(compiler.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a-{{ payload.id", "is not closed"),
        ("a-{{ }}", "no expression"),
        ("a-{{ payload. }}", "ends too early"),
        ("a-{{ [1] }}", "cannot hold a list"),
        ("a-{{ {'a': 1} }}", "cannot hold a map"),
        ("a-{{ null }}", "cannot hold null"),
        ("a-{{ b'x' }}", "cannot hold bytes"),
        ("a-{{ payload.?x }}", "orValue"),
    ],
)
def test_what_can_never_render_does_not_compile(text: str, said: str) -> None:
    assert said in refused(text)
    assert "\n" in refused(text)


def test_all_expressions_are_checked() -> None:
    compiler = Compiler(locate)
    assert compile_template("{{ foo }}-{{ bar }}", ("x",), "here", compiler) is None
    assert len(compiler.problems) == 2


def test_constant_prefix() -> None:
    assert compiled("order-{{ payload.id }}").constant_prefix == "order-"
    assert compiled("{{ payload.id }}-x").constant_prefix == ""
    assert compiled("fixed").constant_prefix == "fixed"
    assert constant_prefix("order-{{ payload.id }}") == "order-"
    assert constant_prefix("{{ payload.id }}") == ""
