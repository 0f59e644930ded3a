"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from bridge.core.words import plural


@pytest.mark.parametrize(
    ("count", "one", "text"),
    [
        (1, "route", "1 route"),
        (0, "route", "0 routes"),
        (1200, "message", "1,200 messages"),
        (2, "entity", "2 entities"),
    ],
)
def test_nouns(count: int, one: str, text: str) -> None:
    assert plural(count, one) == text


def test_words_with_another_form_of_several() -> None:
    assert [plural(count, "start waits", "starts wait") for count in (1, 2)] == ["1 start waits", "2 starts wait"]
    assert [plural(count, "key") for count in (1, 2)] == ["1 key", "2 keys"]
