from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.errors import ExpressionError
from bridge.routing.cel.expression import ROUTE, Compiler, Expression
from bridge.routing.cel.projection import Projections, project
from bridge.routing.cel.scope import RouteScope
from bridge.routing.cel.tokens import readings
from tests.kit.examples import examples
from tests.routing.config import envelope, locate

KEYS = ["a", "b", "c"]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.5, 2.0]), st.sampled_from(["", "a", "b", "x"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=12,
)


def selections() -> st.SearchStrategy[str]:
    step = st.one_of(
        st.sampled_from([f".{key}" for key in KEYS]),
        st.sampled_from([f"['{key}']" for key in KEYS]),
        st.sampled_from([f'["{key}"]' for key in KEYS]),
        st.sampled_from([" . a", "\n.b", "[r'c']", "['\\x61']", ".?a", "[?'b']", "[payload.a]", "[0]", ".a // .b\n"]),
    )
    return st.tuples(st.sampled_from(["payload", "vars", "[payload][0]"]), st.lists(step, max_size=4)).map(
        lambda parts: parts[0] + "".join(parts[1])
    )


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["==", "!=", "<", "+", "in"]), inner).map(" ".join),
        inner.map(lambda text: f"has({text}.a)"),
        inner.map(lambda text: f"size({text})"),
        inner.map(lambda text: f"type({text}) == map"),
        inner.map(lambda text: f"{text}.map(payload, payload.a)"),
        inner.map(lambda text: f"{text}.exists(v, v == payload.b)"),
        inner.map(lambda text: f"'payload.a' + string({text})"),
        inner.map(lambda text: f"{{'payload': {text}}}.payload"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) == 1 ? ({pair[1]}) : payload.c"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) == 1 || ({pair[1]}) == 2"),
    )


expressions = st.recursive(selections(), combined, max_leaves=4)


class Whole(RouteScope):
    """Projection that converts everything, whatever the expression reads."""

    __slots__ = ()

    def part(self, variable: str, tree: Any) -> Any:
        return super().part(variable, None)


def outcome(text: str, scope: RouteScope) -> Any:
    compiler = Compiler(locate, dict.fromkeys(KEYS))
    expression = compiler.value(text, ("x",), "x", ROUTE)
    if expression is None:
        return "does not compile"
    # the slow way for both, so that paths use CEL too
    slow = Expression(text, "x", expression._program, expression._projection)
    try:
        return slow.value(scope)
    except ExpressionError as error:
        return f"error: {error}"


@settings(max_examples=examples(500), deadline=None)
@given(expressions, values, values)
def test_reading_a_part_gives_what_reading_everything_gives(text: str, payload: Any, variables: Any) -> None:
    message = envelope()
    variables = variables if isinstance(variables, dict) else {"a": variables}
    part = outcome(text, RouteScope(message, payload, variables))
    whole = outcome(text, Whole(message, payload, variables))
    assert repr(part) == repr(whole)


@settings(max_examples=examples(300), deadline=None)
@given(selections(), values)
def test_plain_access_gives_what_cel_gives(text: str, payload: Any) -> None:
    message = envelope()
    compiler = Compiler(locate, dict.fromkeys(KEYS))
    expression = compiler.value(text, ("x",), "x", ROUTE)
    if expression is None:
        return
    try:
        plain: Any = expression.value(RouteScope(message, payload, {"a": payload}))
    except ExpressionError as error:
        plain = f"error: {error}"
    assert plain == outcome(text, Whole(message, payload, {"a": payload}))


def test_equal_projections_are_one() -> None:
    projections = Projections()
    env: Any = object()
    names = frozenset(("payload",))
    first = projections.of(env, readings("payload.a + payload.b.c", names))
    assert first.parts == (("payload", {"a": None, "b": {"c": None}}),)
    assert projections.of(env, readings("payload['b'].c == payload.a", names)) is not None
    assert projections.of(env, readings("payload.a == payload['b']['c']", names)) is first
    assert projections.of(env, readings("payload.a.x == payload.a", names)).parts == (("payload", {"a": None}),)


def test_only_what_is_named_is_kept() -> None:
    value = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}
    assert project(value, {"a": None, "b": {"c": None}, "nope": None}) == {"a": 1, "b": {"c": 2}}
    assert project("text", {"a": None}) == "text"
