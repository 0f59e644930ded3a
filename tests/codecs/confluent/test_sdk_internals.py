"""Private parts of the schema libraries still hold, and reading goes on without them."""

from __future__ import annotations

import fastavro
import pytest

from bridge.codecs.confluent import sdk_internals
from bridge.codecs.limits import Limits
from bridge.errors import DecodeError
from tests.codecs.confluent.test_avro import CHAIN, schema


def test_the_reader_in_python_is_there() -> None:
    reader = sdk_internals._module("fastavro._read_py")
    assert callable(getattr(reader, "schemaless_reader", None)), f"fastavro {fastavro.__version__} has moved it"


def test_without_it_recursive_schemas_are_refused_and_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk_internals, "_module", lambda name: None)
    with pytest.raises(DecodeError, match=r"recursive, which fastavro .* cannot read safely"):
        schema(CHAIN).decode(b"\x00", (), Limits())
    assert schema("long").decode(b"\x02", (), Limits()) == 1


def test_the_http_library_is_that_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sdk_internals.http_library()
    compat = sdk_internals._module("confluent_kafka.schema_registry.common._httpx_compat")
    assert found is getattr(compat, "httpx", None)
    without = sdk_internals._module
    monkeypatch.setattr(sdk_internals, "_module", lambda name: without(name) if "confluent" not in name else None)
    assert sdk_internals.http_library() is found
