"""Payloads as commands show them."""

from __future__ import annotations

import json

import pytest

from bridge.app.connection import payload
from bridge.core.origin import MessageOrigin, wrap_payload


@pytest.mark.parametrize("data", [None, 1, {"total": 5}, ["a"]])
def test_payloads_are_shown_without_the_envelope(data: object) -> None:
    assert payload(json.dumps(wrap_payload(data, MessageOrigin("shop/42", "start")))) == data
    assert payload(json.dumps(data)) == data


def test_what_cannot_be_read_is_shown_as_it_is() -> None:
    later = '{"bridge:message": {"v": 2, "data": 1}}'
    assert [payload(text) for text in (None, "", "no json", later)] == [None, None, "no json", later]
