"""Schemas that messages were written with: fetched once, compiled once, cached within limits."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Set

from bridge.codecs.confluent.format import CompiledSchema, SchemaFormat
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.wire import SchemaId
from bridge.core.errors import DecodeError, MessageError, RegistryUnavailable

CAPACITY = 2000
"""Most schemas in the cache; a batch of messages has at most a few hundred."""
BYTES = 64 * 1024 * 1024
"""Most bytes of cached schemas, as text."""
_FORGET = 30.0
"""Seconds after which an unusable schema is fetched again: it may have been registered since."""


class SchemaCache:
    """Schema cache of one registry and format."""

    def __init__(self, registry: Registry, format: SchemaFormat) -> None:  # noqa: A002 -- the noun
        self._registry = registry
        self._format = format
        self._known: OrderedDict[SchemaId, tuple[CompiledSchema, int]] = OrderedDict()
        self._unusable: OrderedDict[SchemaId, tuple[float, str]] = OrderedDict()

    def get(self, key: SchemaId) -> CompiledSchema:
        """A schema that was passed to `fetch`. Raises: DecodeError when it cannot be used."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found[0]
        if key in self._unusable:
            raise DecodeError(self._unusable[key][1])
        raise LookupError(f"schema {key} was not fetched")

    async def fetch(self, keys: Iterable[SchemaId]) -> None:
        """Load these schemas, or record that they cannot be used. Raises: RegistryUnavailable."""
        now = time.monotonic()
        missing, wanted = set(), set(keys)
        for key in wanted:
            if key in self._known:
                continue
            if key in self._unusable and now - self._unusable[key][0] < _FORGET:
                continue
            missing.add(key)
        if missing:
            await asyncio.gather(*(self._load(key) for key in missing))
            self._forget(wanted)

    async def _load(self, key: SchemaId) -> None:
        try:
            found = await self._registry.schema(key, self._format.kind)
            if found.kind != self._format.kind:
                raise DecodeError(f"schema {key} of registry {self._registry.name} is {found.kind[:40]}")
            # Compiling a large one takes seconds
            compiled = await asyncio.to_thread(self._format.compile, found, None)
        except RegistryUnavailable:
            raise
        except Exception as error:  # a schema of any form meets the libraries' code here
            self._unusable[key] = (
                time.monotonic(),
                str(error)
                if isinstance(error, MessageError)
                else (f"schema {key} of registry {self._registry.name} cannot be used ({type(error).__name__})"),
            )
            self._unusable.move_to_end(key)
            while len(self._unusable) > CAPACITY:
                self._unusable.popitem(last=False)
        else:
            self._unusable.pop(key, None)
            self._known[key] = compiled, len(found.text) + sum(len(text) for _, text in found.references)

    def _forget(self, wanted: Set[SchemaId]) -> None:
        """Remove schemas beyond the limits, except those that are needed now."""
        size = sum(each for _, each in self._known.values())
        for key in [key for key in self._known if key not in wanted]:
            if len(self._known) <= CAPACITY and size <= BYTES:
                break
            size -= self._known.pop(key)[1]
