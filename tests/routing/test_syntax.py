import pytest

from bridge.routing.cel.tokens import closing_braces, readings, tokens

NAMES = frozenset(("payload", "event", "vars"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("payload", [("payload", ())]),
        ("payload.a.b > 1", [("payload", ("a", "b"))]),
        ("payload['a'].b", [("payload", ("a", "b"))]),
        ("payload . a\n . b", [("payload", ("a", "b"))]),
        ("payload.?a.orValue(1)", [("payload", ("a",))]),
        ("payload[?'a'].orValue(1)", [("payload", ("a",))]),
        ("payload.items.map(i, i.x)", [("payload", ("items",))]),
        ("payload.size()", [("payload", ())]),
        ("payload[event.key]", [("payload", ()), ("event", ("key",))]),
        ("payload.items[0].sku", [("payload", ("items",))]),
        (r"payload['\x61']", [("payload", ())]),
        ("payload[r'a']", [("payload", ())]),
        ("'payload.a' + \"event.b\"", []),
        ("'''payload.a''' + r'\\' + vars.c", [("vars", ("c",))]),
        ("1 // payload.a\n + vars.c", [("vars", ("c",))]),
        ("event.payload", [("event", ("payload",)), ("payload", ())]),
        (".payload.a", [("payload", ())]),
        ("payload.`a-b`", [("payload", ())]),
        ("payloads.a + mypayload.b", []),
        ("b'payload' + rb'event'", []),
    ],
)
def test_what_is_read_is_found_and_never_less(text: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert [(found.variable, found.path) for found in readings(text, NAMES)] == expected


@pytest.mark.parametrize("text", ["payload", "payload.a", "event.headers['x-y']", " payload.a // why"])
def test_only_a_path_is_plain(text: str) -> None:
    assert [found.alone for found in readings(text, NAMES)] == [True]


@pytest.mark.parametrize(
    "text", ["payload.?a", "payload.a + 1", "-payload.a", "(payload)", "payload.a[0]", ".payload.a"]
)
def test_anything_else_is_not_plain(text: str) -> None:
    assert not any(found.alone for found in readings(text, NAMES))


@pytest.mark.parametrize(
    "inside", ["payload.id", "'}}'", '"{{"', "{'a': {'b': 1}}.a.b", "'''}}\n'''", "r'\\'", "'\\'}}'", "payload['}}']"]
)
def test_braces_close_where_the_expression_ends(inside: str) -> None:
    text = "{{" + inside + " }} tail }}"
    assert text[2 : closing_braces(text, 2)] == inside + " "


@pytest.mark.parametrize("text", ["payload.id", "payload.id }", "{'a': 1 }}", "} }}"])
def test_braces_that_do_not_close(text: str) -> None:
    assert closing_braces(text, 0) == -1


def test_an_unclosed_quote_is_a_mark() -> None:
    assert [token.text for token in tokens("'abc")] == ["'", "abc"]
