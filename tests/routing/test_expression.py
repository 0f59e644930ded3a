import math
from collections.abc import Callable
from typing import Any

import pytest

from bridge.core.errors import ExpressionError
from bridge.core.message import Message
from bridge.routing.cel.expression import ITEM, ROUTE, Compiler, Expression, PathExpression
from bridge.routing.cel.scope import RouteScope
from tests.routing.config import envelope, locate


def compiled(text: str, kind: str = "value", variables: dict[str, Any] | None = None) -> Expression:
    compiler = Compiler(locate, variables or {"currency": "EUR"})
    expression = getattr(compiler, kind)(text, ("when",), "here", ROUTE)
    assert expression is not None, compiler.problems
    return expression


def scope(data: Any = None, **attributes: Any) -> RouteScope:
    message = envelope(data, **attributes)
    return RouteScope(message, message.data, {"currency": "EUR"})


def value(text: str, data: Any = None, **attributes: Any) -> Any:
    return compiled(text).value(scope(data, **attributes))


def refused(text: str, kind: str = "value") -> str:
    compiler = Compiler(locate, {"currency": "EUR"})
    assert getattr(compiler, kind)(text, ("routes", 0, "when"), "here", ROUTE) is None
    (problem,) = compiler.problems
    assert problem.path == "routes.0.when"
    return problem.what


def test_variables() -> None:
    message = scope(
        {"id": "o-1"}, headers={"x-a": "1"}, key="k", subject="s", extensions={"e": 1}, timestamp=5.0, time="t"
    )
    expected = {
        "event.type": "order.created",
        "event.source": "/shop",
        "event.id": "1",
        "event.subject": "s",
        "event.time": "t",
        "event.dataschema": None,
        "event.datacontenttype": None,
        "event.key": "k",
        "event.topic": "orders",
        "event.partition": 3,
        "event.offset": 42,
        "event.message_id": "/shop#1",
        "event.timestamp": 5.0,
        "event.headers['x-a']": "1",
        "event.extensions.e": 1,
        "vars.currency": "EUR",
        "payload.id": "o-1",
    }
    for text, wanted in expected.items():
        assert compiled(text).value(message) == wanted, text
        assert compiled(f"[{text}][0]").value(message) == wanted, text
    assert set(compiled("event").value(message)) == set(compiled("[event][0]").value(message))


def test_an_absent_attribute_makes_a_condition_false() -> None:
    assert compiled("event.subject == 'x'", "condition").condition(scope()) is False


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("timestamp('2030-01-31T10:00:00+02:00')", "2030-01-31T08:00:00Z"),
        ("timestamp('2030-01-31T10:00:00.25Z')", "2030-01-31T10:00:00.250000Z"),
        ("duration('90s')", "90s"),
        ("duration('-1500ms')", "-1.5s"),
        ("b'\\xff\\x00'", "/wA="),
        ("{2: 'a', true: b'b', 'c': [duration('1s')]}", {"2": "a", "true": "Yg==", "c": ["1s"]}),
        ("7u", 7),
        ("7.0", 7.0),
        ("'NOT_FOUND: x'", "NOT_FOUND: x"),
        ("payload.?nope.orValue(3)", 3),
        ("'a'.upperAscii() + base64.encode(b'a')", "AYQ=="),
        ("math.greatest(1, 2)", 2),
        ("cel.bind(x, 2, x + x)", 4),
        ("'a\\x00b'", "a\0b"),
    ],
)
def test_results_are_json(text: str, wanted: Any) -> None:
    found = value(text)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize("odd", [2**70, math.inf, "\ud800", "a\0b", [1, (2,)]])
def test_a_path_hands_on_what_cel_cannot_hold(odd: Any) -> None:
    data = {"odd": odd}
    assert value("payload.odd", data) is odd
    assert value("payload", data) is data


def test_what_is_not_read_cannot_hurt() -> None:
    assert value("payload.total + 1", {"total": 1, "big": 2**70, "bad": "\ud800", "nul": "\0"}) == 2


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (2**70, "exceeds 64 bits"),
        ("\ud800", "lone surrogate"),
        ("a\0b", "NUL"),
        ({"k\0": 1}, "NUL"),
        ([["\0"]], "NUL"),
        (b"a\0b", "NUL"),
        ([b"a\0b"], "NUL"),
        ({1, 2}, "type that CEL does not support"),
    ],
)
def test_what_cel_cannot_hold_is_an_error(odd: Any, said: str) -> None:
    for text, data in (("payload.odd == 1", {"odd": odd}), ("[payload][0]", {"odd": odd}), ("payload == 1", odd)):
        with pytest.raises(ExpressionError, match=said):
            value(text, data)


def test_bytes_are_there_only_when_they_are_named() -> None:
    message = Message(b"", b"M\xfc\0", (("x", b"\xff"), ("x", None)))
    assert value("event.key_base64", message=message) == "TfwA"
    assert value("base64.decode(event.headers_base64['x']) == b'\\xff'", message=message) is True
    assert value("event.data_base64", b"\0") == "AA=="
    assert value("[event.key_base64, event.data_base64, event.headers_base64]") == [None, None, {}]
    for whole in ("event", "[event][0]"):
        assert not {"key_base64", "headers_base64", "data_base64"} & value(whole, b"x", message=message).keys()


def test_nan_passes() -> None:
    assert value("payload.odd != payload.odd", {"odd": math.nan}) is True


def test_nesting_that_would_end_the_process_is_refused() -> None:
    deep: Any = 1
    for _ in range(20_000):
        deep = [deep]
    assert value("payload.deep", {"deep": deep}) is deep
    for data in ({"deep": deep}, {"deep": {"x": deep}}):
        with pytest.raises(ExpressionError, match="nested deeper than 1000"):
            value("size(payload.deep) == 1", data)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("payload.nope == 1", 'no key "nope"'),
        ("payload.nope", 'no key "nope"'),
        ("payload['nope'] + 1", 'no key "nope"'),
        ("payload[payload.secret]", "a computed key"),
        ("payload.secret.x", "not a map"),
        ("payload.secret.x + 1", "not a map"),
        ("payload.list['x']", "not an integer"),
        ("[payload.list['x']]", "not an integer"),
        ("payload.secret['x']", "neither a map nor a list"),
        ("[payload.secret['x']]", "neither a map nor a list"),
        ("payload.list[9]", "outside its bounds"),
        ("payload.secret + 1", "cannot add text and a number"),
        ("-payload.secret", "cannot negate text"),
        ("payload.secret ? 1 : 2", "neither true nor false"),
        ("payload.secret && true ? 1 : 2", "neither true nor false"),
        ("1 / (size(payload.list) - 1)", "division by zero"),
        ("int(payload.secret)", "converted to a number"),
        ("timestamp(payload.secret)", "RFC 3339"),
        ("'a'.matches(payload.secret + '(')", "regular expression"),
        ("9223372036854775807 + size(payload.list)", "exceeds 64 bits"),
        ("payload.secret.charAt(99)", "outside its text"),
        ("optional.of(payload.secret)", None),
        ("payload.big + 1", "64 bits"),
    ],
)
def test_an_error_says_what_happened_and_never_a_value(text: str, said: str | None) -> None:
    if said is None:
        assert "orValue" in refused(text)
        return
    with pytest.raises(ExpressionError, match=said) as raised:
        value(text, {"secret": SECRET, "list": [1]} | ({"big": 2**70} if "big" in text else {}))
    received = str(raised.value)
    assert received.startswith("here: ")
    assert text in received
    assert SECRET not in received
    assert str(2**70) not in received


def test_an_optional_that_hides_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="JSON"):
        value("dyn([payload.?id])")


def test_too_many_iterations() -> None:
    with pytest.raises(ExpressionError, match="10,000 iterations"):
        value("payload.exists(x, x < 0)", list(range(20_000)))


@pytest.mark.parametrize("data", [1, "true", None, {}, []])
@pytest.mark.parametrize("text", ["payload.flag", "dyn(payload.flag)"])
def test_a_condition_that_gives_something_else(text: str, data: Any) -> None:
    with pytest.raises(ExpressionError, match="must be true or false"):
        compiled(text, "condition").condition(scope({"flag": data}))


@pytest.mark.parametrize("text", ["payload.flag", "dyn(payload.flag)", "payload.flag == true"])
@pytest.mark.parametrize("flag", [True, False])
def test_conditions(text: str, flag: bool) -> None:
    assert compiled(text, "condition").condition(scope({"flag": flag})) is flag


@pytest.mark.parametrize(
    "text", ["1 + 1", "'a'", "[true]", "null", "payload.?flag", "timestamp('2030-01-01T00:00:00Z')"]
)
def test_a_condition_of_another_type_does_not_compile(text: str) -> None:
    assert refused(text, "condition").startswith("must give true or false")


def test_a_compile_error_points_at_its_column() -> None:
    assert refused("payload.a > 1 &&\n  foo(payload)") == (
        "there is no function `foo` for these arguments\n    foo(payload)\n       ^"
    )
    assert refused("payload.total >").split("\n")[1:] == ["  payload.total >", "  " + " " * 15 + "^"]
    assert refused("'a' + 1").startswith("cannot add text and a number")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("event.typ == 'x'", "event has no typ"),
        ("event['typ'] == 'x'", "event has no typ"),
        ("vars.nope == 'x'", "vars has no nope"),
        ("item.x", "there is no variable `item"),
        ("type(payload)", "gives a type"),
    ],
)
def test_names_that_cannot_be(text: str, said: str) -> None:
    assert said in refused(text)


def test_a_macro_may_bind_a_variable_of_ours() -> None:
    data = {"xs": [{"sku": 1}, {"sku": 2}]}
    assert value("payload.xs.map(event, event.sku)", data) == [1, 2]
    assert value("payload.xs.map(payload, payload.sku)", data) == [1, 2]


def test_paths_are_read_without_cel() -> None:
    assert isinstance(compiled("payload.a"), PathExpression)
    assert not isinstance(compiled("payload.a + 1"), PathExpression)


def test_conversion_is_shared_and_no_more_than_needed() -> None:
    compiler = Compiler(locate)
    first = compiler.condition("payload.a > 1", ("x",), "x")
    second = compiler.condition("payload.a < 5 && payload['a'] != 3", ("x",), "x")
    assert first is not None
    assert second is not None
    reads: list[str] = []

    class Watched(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            reads.append(key)
            return super().__getitem__(key)

    message = scope(Watched(a=2, b=3))
    assert first.condition(message)
    assert second.condition(message)
    assert reads == ["a"]


def test_items_share_what_does_not_depend_on_them() -> None:
    compiler = Compiler(locate)
    expression = compiler.value("payload.a + item.n + index", ("x",), "x", ITEM)
    shared = compiler.value("payload.a + 1", ("x",), "x", ITEM)
    assert expression is not None
    assert shared is not None
    outer = scope({"a": 10})
    inner = [outer.for_item({"n": n}, n) for n in (1, 2)]
    assert [expression.value(each) for each in inner] == [12, 14]
    assert [shared.value(each) for each in inner] == [11, 11]
    assert len(outer._activations) == 1


def test_text_of_long_expressions_is_cut() -> None:
    long = "payload.a == '" + "x" * 5000 + "'"
    with pytest.raises(ExpressionError) as raised:
        value(long, {})
    assert len(str(raised.value)) < 250


CALLS: list[Callable[[Expression], Any]] = [
    lambda expression: expression.condition(scope({"b": "x"})),
    lambda expression: expression.text(scope({"b": "x"})),
    lambda expression: expression.value(scope({"b": "x"})),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_way_to_ask_fails_the_same(call: Callable[[Expression], Any]) -> None:
    for text in ("payload.a", "dyn(payload.a)"):
        with pytest.raises(ExpressionError) as raised:
            call(compiled(text))
        assert str(raised.value) == f'here: there is no key "a", in `{text}`'


def test_raw_bytes_become_base64_as_an_input_and_are_no_text() -> None:
    assert value("payload", b"\x00\xff") == "AP8="
    with pytest.raises(ExpressionError, match="bytes"):
        compiled("payload", "text").text(scope(b"\x00\xff"))
