import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import Problem
from bridge.routing.cel.expression import ROUTE, Compiler, compile_error
from bridge.routing.cel.failure import compile_text, sentence
from bridge.routing.cel.respelling import respelled


@pytest.mark.parametrize(
    ("source", "culprit"),
    [
        ("payload.a = 1", "= 1"),
        ("payload.a and payload.b", "and payload.b"),
        ("payload.a == None", "None"),
        ("a.b\n= 1", "= 1"),
    ],
)
def test_the_mark_is_below_the_word_of_another_language(source: str, culprit: str) -> None:
    error = compile_error(source.replace("a.b", "payload.b"), ROUTE)
    assert error is not None
    expression = source.replace("a.b", "payload.b")
    text, offset = compile_text(error, expression)
    _, line, mark = text.split("\n")
    assert line[mark.index("^") :] == culprit
    assert offset is not None
    assert expression[offset:] == culprit


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("payload.a = 1 and not payload.b", "payload.a == 1 && ! payload.b"),
        ("payload.a === 1 AND payload.b <> 2", "payload.a == 1 && payload.b != 2"),
        ("payload.a == 'x = y and z' and payload.b is None", "payload.a == 'x = y and z' && payload.b == null"),
        ("payload.a\n= True", "payload.a\n== true"),
        ("payload.a == 1", None),
        ("payload.a = ", None),
        ("payload.a ~ 1", None),
        ("a = 1", None),
    ],
)
def test_respelling(source: str, right: str | None) -> None:
    assert respelled(source) == right


@pytest.mark.parametrize("message", ["UNKNOWN: s3cr3t", "", 'NOT_FOUND: Key not found in map : "s3cr3t"'])
def test_words_of_the_library_that_are_not_known_are_not_quoted(message: str) -> None:
    assert "s3cr3t" not in sentence(message, "payload[payload.k]")


def test_a_key_is_named_when_the_expression_names_it() -> None:
    missing = 'NOT_FOUND: Key not found in map : "total"'
    assert sentence(missing, "payload.total > 1") == 'there is no key "total"'
    assert sentence(missing, "payload.totals > 1") == "a computed key is not in its map"


def test_a_compile_error_of_another_shape() -> None:
    assert compile_text("something else", "a +") == ("is not a CEL expression\n  a +", None)


def refused(source: str) -> list[str]:
    """Return the first lines of the problems of a condition."""
    found: list[str] = []

    def report(_: object, what: str) -> Problem:
        found.append(what.split("\n")[0])
        return Problem("", 0, 0, "", what)

    Compiler(report, {}).condition(source, ("when",), "route r, when", ROUTE)
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("payload.a ==", "the expression ends too early"),
        ("payload.a ? 1", "the expression ends too early; `:` is missing"),
        ("(payload.a", "`)` is missing at the end"),
        ("{'a' 1}", "`:` is missing before `1`"),
        ("payload.a)", "`)` is not expected here"),
        ("payload.a == 'x", "the closing quote is missing"),
        ("payload.a == “x”", "write straight quotes, ' or \""),
        ("payload.a = 1", "write `==` instead of `=`"),
        ("payload.a === 1", "write `==` instead of `===`"),
        ("payload.a <> 1", "write `!=` instead of `<>`"),
        ("payload.a => 1", "write `>=` instead of `=>`"),
        ("payload.a =< 1", "write `<=` instead of `=<`"),
        ("payload.a =! 1", "write `!=` instead of `=!`"),
        ("payload.a and payload.b", "write `&&` instead of `and`"),
        ("not payload.a", "write `!` instead of `not`"),
        ("payload.a == None", "write `null` instead of `None`"),
        ("if(payload.a)", "`if` is a reserved word; write `CONDITION ? A : B`"),
        ("total > 1", "there is no variable `total`"),
        ("paylod.total > 1", "there is no variable `paylod.total`; did you mean `payload`?"),
        ("yes", "there is no variable `yes`; write `true` or `false`"),
        ("len(payload)", "there is no function `len` for these arguments; did you mean `size`?"),
        (
            "payload.a.startswith('x')",
            "there is no function `startswith` for these arguments; did you mean `startsWith`?",
        ),
        ("payload.a.like('x')", "there is no function `like` for these arguments"),
        ("has(payload)", "has() needs a member, like `has(payload.id)`"),
        ("payload?.a == 1", "`?.` is not CEL; write `.?`"),
        ("payload.a ?? false", "`??` is not CEL; write `.orValue(...)`"),
        ("item.a == 1", "there is no variable `item.a`; only the command of a rule with `for_each` has item and index"),
        ("'\\q' == payload.a", "a backslash begins no valid escape; write two, or a raw text like r'\\d'"),
        ("null.a", "null has no members"),
        ("payload.a == 99999999999999999999", "the number does not fit 64 bits"),
        (
            "payload.a.exists(1, 2)",
            "exists() needs a name for each item first, like `payload.lines.exists(line, line.price > 5)`",
        ),
        ("'a' > 1", "cannot compare text with a number; convert one with string(...) or double(...)"),
        ("1 == 1.0", "cannot compare an integer with a decimal number; convert one with double(...)"),
        ("1 + 'a'", "cannot add a number and text; convert one with string(...) or double(...)"),
        ("timestamp('2030-01-01T00:00:00Z') > duration('1s')", "cannot compare a time with a duration"),
        ("1 in 'a'", "cannot look for a number in text"),
        ("{1: 2}[true]", "cannot index a map with true or false"),
        ("-'a'", "cannot negate text"),
        ("!1", "a condition is neither true nor false"),
        ("'a' ? true : false", "a condition is neither true nor false: it is text"),
        ("true ? 1 : 'a'", "the two results of `? :` must have the same type"),
        ("'a'.startsWith([{1: 2}])", "`startsWith` does not accept text and a list"),
        ("size('a')", "must give true or false, and gives an integer"),
    ],
)
def test_errors_of_the_library_are_told_in_words(source: str, what: str) -> None:
    assert refused(source) == [what]


PARTS = (
    "payload", ".a", "event.type", "1", "2.5", "3u", "'a'", '"', "'", "(", ")", "[", "]", "{", "}", ":", ",", "?", "==",
    "=", "<", ">=", "&&", "||", "&", "|", "!", "+", "-", "*", "/", "%", "in", "and", "or", "not", "if", "null", "true",
    "size", "has", ".map", ".exists", "x", ";", "#", "“", "r", "b", "\\", "\n", "timestamp('x')", "duration('1s')",
)  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8))
def test_no_error_has_words_of_the_parser(parts: list[str]) -> None:
    for what in refused(" ".join(parts)):
        for word in ("<EOF>", "overload", "mismatched", "extraneous", "viable", "token recognition", "syntax error"):
            assert word not in what, (parts, what)
