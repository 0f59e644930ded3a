"""Operations on the keys that sign requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.core.answers import KEEPS, SPREAD, SigningKey, SigningKeyring
from bridge.core.errors import EngineRejected, InstanceNotFound
from bridge.engines.base import Engine
from bridge.engines.commands.answers import AnswerKeys
from bridge.system.clock import stamp


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Key without its secret.

    made: RFC 3339 in UTC.
    signs: new requests are signed with it now.
    """

    id: str
    made: str
    signs: bool


class KeyOperations:
    """Signing keys of one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._keys = AnswerKeys(engine)

    async def list(self) -> Sequence[KeyInfo]:
        """All keys, newest first."""
        return _shown(await self._keys.ring(fresh=True))

    async def rotate(self) -> KeyInfo:
        """Add a key. Raises: EngineRejected when the maximum number of keys exists."""
        if len((await self._keys.ring(fresh=True)).keys) >= KEEPS:
            raise _full()
        key = SigningKey.new(time.time())
        ring = await self._keys.change(
            "rotate", key.to_json(), lambda found: found.find(key.id) is not None or len(found.keys) >= KEEPS
        )
        added = next((each for each in _shown(ring) if each.id == key.id), None)
        if added is None:
            raise _full()
        return added

    async def retire(self, key_id: str) -> None:
        """Remove a key. Raises: InstanceNotFound; EngineRejected for a key that a process may sign with."""
        ring = await self._keys.ring(fresh=True)
        if ring.find(key_id) is None:
            raise InstanceNotFound(f"there is no key {key_id!r}; `bridge keys list` shows all")
        if key_id in ring.may_sign(time.time()):
            raise EngineRejected(
                f"the key {key_id!r} signs requests, or did a minute ago; run `bridge keys rotate` and wait "
                f"{2 * SPREAD:.0f} s first"
            )
        await self._keys.change("retire", key_id, lambda found: found.find(key_id) is None)


def _full() -> EngineRejected:
    return EngineRejected(f"there are {KEEPS} keys already; retire an old one first")


def _shown(ring: SigningKeyring) -> Sequence[KeyInfo]:
    signer = ring.signer(time.time())
    return [KeyInfo(key.id, stamp(datetime.fromtimestamp(key.made, UTC)), key is signer) for key in ring.keys]


class OneKey(Parameters):
    key: str


class KeyId(TypedDict):
    id: str


async def _keys(scene: Scene, given: Parameters) -> Any:
    return [asdict(one) for one in await KeyOperations(await scene.engine()).list()]


async def _rotate(scene: Scene, given: Parameters) -> Any:
    return asdict(await KeyOperations(await scene.engine()).rotate())


async def _retire(scene: Scene, given: OneKey) -> Any:
    await KeyOperations(await scene.engine()).retire(given.key)
    return {"id": given.key}


KEY_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("keys.list", "reader", "keys", Parameters, _keys, list[KeyInfo]),
    Operation("keys.rotate", "admin", "keys:rotate", Parameters, _rotate, KeyInfo),
    Operation("keys.retire", "admin", "keys/{key}:retire", OneKey, _retire, KeyId, lambda given: given.key),
)
