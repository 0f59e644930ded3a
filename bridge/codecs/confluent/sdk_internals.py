"""Private parts of the schema libraries: two touches, each with a way to do without it.

tests/codecs/confluent/test_sdk_internals.py fails when one of them has lost its grip.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import fastavro

from bridge.errors import DecodeError


def read_recursive(stream: Any, schema: Any, **options: Any) -> Any:
    """Read Avro data of a recursive schema with fastavro's reader in Python.

    Its compiled reader follows deeply nested data to the end of the stack, and the process with it. Without the reader
    in Python recursive schemas are refused.

    Raises: DecodeError, RecursionError, and what `fastavro.schemaless_reader` raises.
    """
    reader = getattr(_module("fastavro._read_py"), "schemaless_reader", None)
    if reader is None:
        raise DecodeError(f"the schema is recursive, which fastavro {fastavro.__version__} cannot read safely")
    return reader(stream, schema, None, **options)


def http_library() -> ModuleType:
    """The HTTP library of Confluent's registry client, for its errors and its logger: `httpx2` or `httpx`."""
    found = getattr(_module("confluent_kafka.schema_registry.common._httpx_compat"), "httpx", None)
    if isinstance(found, ModuleType):
        return found
    return _module("httpx2") or importlib.import_module("httpx")


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
