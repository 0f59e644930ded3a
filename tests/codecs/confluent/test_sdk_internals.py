"""The private members of the schema libraries still work, and the code works without them."""

from __future__ import annotations

import pytest
from confluent_kafka.schema_registry import AsyncSchemaRegistryClient

from bridge.codecs.confluent import sdk_internals


def test_the_http_library_is_that_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sdk_internals.http_library()
    compat = sdk_internals._module("confluent_kafka.schema_registry.common._httpx_compat")
    assert found is getattr(compat, "httpx", None)
    without = sdk_internals._module
    monkeypatch.setattr(sdk_internals, "_module", lambda name: without(name) if "confluent" not in name else None)
    assert sdk_internals.http_library() is found


def test_the_client_s_session_is_bounded() -> None:
    client = AsyncSchemaRegistryClient({"url": "http://localhost:1"})
    sdk_internals.bound_answers(client, 10, ValueError)
    session = client._rest_client.session
    assert session.headers["Accept-Encoding"] == "identity"
    assert len(session.event_hooks["response"]) == 1


@pytest.mark.parametrize("client", [object(), type("Client", (), {"_rest_client": object()})()])
def test_a_client_without_that_session_is_left_as_it_is(client: object) -> None:
    sdk_internals.bound_answers(client, 10, ValueError)
