"""Operations on the keys that sign requests, on a running engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bridge.app.connection import stamp
from bridge.core.answers import KEEPS, SPREAD, Key, Keyring
from bridge.core.errors import EngineRejected, InstanceNotFound
from bridge.engines.answers import AnswerKeys
from bridge.engines.base import Engine


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Key without its secret. made: RFC 3339 in UTC. signs: new requests are signed with it now."""

    id: str
    made: str
    signs: bool


class Keys:
    """Signing keys of one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._keys = AnswerKeys(engine)

    async def list(self) -> Sequence[KeyInfo]:
        """All keys, newest first."""
        return _shown(await self._keys.ring(fresh=True))

    async def rotate(self) -> KeyInfo:
        """Add a key. Raises: EngineRejected when the maximum number of keys exists."""
        if len((await self._keys.ring(fresh=True)).keys) >= KEEPS:
            raise EngineRejected(f"the engine already has {KEEPS} keys; retire an old one first")
        key = Key.new(time.time())
        ring = await self._keys.change("rotate", key.to_json(), lambda found: found.find(key.id) is not None)
        return _shown(ring)[0]

    async def retire(self, key_id: str) -> None:
        """Remove a key. Raises: InstanceNotFound; EngineRejected for the key that signs."""
        known = {key.id: key for key in await self.list()}
        if key_id not in known:
            raise InstanceNotFound(f"there is no key {key_id!r}; `bridge keys list` shows all")
        if known[key_id].signs:
            raise EngineRejected(
                f"the key {key_id!r} signs requests; run `bridge keys rotate`, and wait {SPREAD:.0f} s"
            )
        await self._keys.change("retire", key_id, lambda found: found.find(key_id) is None)


def _shown(ring: Keyring) -> Sequence[KeyInfo]:
    signer = ring.signer(time.time())
    return [KeyInfo(key.id, stamp(datetime.fromtimestamp(key.made, UTC)), key is signer) for key in ring.keys]
