"""Schemas that messages were written with: fetched once, compiled once, kept within bounds."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable

from bridge.codecs.confluent.format import Compiled, Format
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.wire import SchemaId
from bridge.errors import DecodeError

CAPACITY = 2000
"""Schemas that are kept; a batch of messages has at most a few hundred."""
_FORGET = 30.0
"""Seconds after which a schema that could not be used is asked for again: it may have been registered since."""


class Schemas:
    """Of one registry and format."""

    def __init__(self, registry: Registry, format: Format) -> None:  # noqa: A002 -- the noun
        self._registry = registry
        self._format = format
        self._known: OrderedDict[SchemaId, Compiled] = OrderedDict()
        self._unusable: OrderedDict[SchemaId, tuple[float, DecodeError]] = OrderedDict()

    def get(self, key: SchemaId) -> Compiled:
        """A schema that `fetch` was asked for. Raises: DecodeError when it cannot be used."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        if key in self._unusable:
            raise DecodeError(str(self._unusable[key][1]))
        raise LookupError(f"schema {key} was not fetched")

    async def fetch(self, keys: Iterable[SchemaId]) -> None:
        """Have these schemas, or know that they cannot be used. Raises: RegistryUnavailable."""
        now = time.monotonic()
        missing = set()
        for key in keys:
            if key in self._known:
                continue
            if key in self._unusable and now - self._unusable[key][0] < _FORGET:
                continue
            missing.add(key)
        if missing:
            await asyncio.gather(*(self._load(key) for key in missing))

    async def _load(self, key: SchemaId) -> None:
        try:
            found = await self._registry.schema(key, self._format.kind)
            if found.kind != self._format.kind:
                raise DecodeError(f"schema {key} of registry {self._registry.name} is {found.kind}")
            self._known[key] = self._format.compile(found, None)
        except DecodeError as error:
            self._unusable[key] = time.monotonic(), error
            self._unusable.move_to_end(key)
            while len(self._unusable) > CAPACITY:
                self._unusable.popitem(last=False)
        else:
            self._unusable.pop(key, None)
            while len(self._known) > CAPACITY:
                self._known.popitem(last=False)
