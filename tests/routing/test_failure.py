import pytest

from bridge.routing.cel.failure import compile_text, sentence


@pytest.mark.parametrize("message", ["UNKNOWN: s3cr3t", "", 'NOT_FOUND: Key not found in map : "s3cr3t"'])
def test_words_of_the_library_that_are_not_known_are_not_quoted(message: str) -> None:
    assert "s3cr3t" not in sentence(message, "payload[payload.k]")


def test_a_key_is_named_when_the_expression_names_it() -> None:
    missing = 'NOT_FOUND: Key not found in map : "total"'
    assert sentence(missing, "payload.total > 1") == 'there is no key "total"'
    assert sentence(missing, "payload.totals > 1") == "a computed key is not in its map"


def test_a_compile_error_of_another_shape() -> None:
    assert compile_text("something else", "a +") == "is not a CEL expression\n  a +"
