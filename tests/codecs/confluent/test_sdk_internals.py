"""The private member of a schema library still works, and the code works without it."""

from __future__ import annotations

import pytest

from bridge.codecs.confluent import sdk_internals


def test_the_http_library_is_that_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sdk_internals.http_library()
    compat = sdk_internals._module("confluent_kafka.schema_registry.common._httpx_compat")
    assert found is getattr(compat, "httpx", None)
    without = sdk_internals._module
    monkeypatch.setattr(sdk_internals, "_module", lambda name: without(name) if "confluent" not in name else None)
    assert sdk_internals.http_library() is found
