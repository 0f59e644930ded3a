"""Places of single characters of scalars, for values in every style of YAML."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.yaml.places import character
from bridge.config.yaml.scalars import spans

WORDS = st.text("ab =!'\"\\{}#:é😀", min_size=1, max_size=30)


@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from(["'", '"', "|", ">"]))
def test_a_character_of_a_value_is_found_in_the_text(lines: list[str], style: str) -> None:
    value = "\n".join(lines)
    text = f"first: 1\n{yaml.dump({'when': value}, default_style=style, allow_unicode=True, width=1000)}"
    span = spans(text)[-1]
    assert span.value == value
    rows = text.split("\n")
    for offset, wanted in enumerate(value):
        place = character(text, span, offset)
        if place is not None and wanted not in "\n '\"\\":
            assert rows[place[0] - 1][place[1] - 1] in (wanted, "\\")


@pytest.mark.parametrize("style", ["'", '"', "|"])
def test_lines_and_quotes_are_counted(style: str) -> None:
    value = "a 'b' \"c\"\n= d"
    text = yaml.dump({"when": value}, default_style=style)
    span = spans(text)[-1]
    place = character(text, span, value.index("="))
    assert place is not None
    assert text.split("\n")[place[0] - 1][place[1] - 1] == "="


def test_the_end_of_a_value_has_a_place() -> None:
    text = "when: payload.a =\n"
    assert character(text, spans(text)[-1], len("payload.a =")) == (1, 18)
