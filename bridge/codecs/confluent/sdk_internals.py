"""A private part of the schema libraries, with a way to do without it.

tests/codecs/confluent/test_sdk_internals.py fails when it has lost its grip.
"""

from __future__ import annotations

import importlib
from types import ModuleType


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
