"""Encryption of waiting messages before they are given to an engine of another party.

A sealed item keeps in clear the facts that entities decide by: identities, times, sizes, routes, and the members of its
message below `of`. They are authenticated with the sealed part: one message cannot replace another. A version without
encryption finds no position in such a message and fails before it has an effect.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from bridge.core.errors import EngineMisconfigured
from bridge.encryption import Keyring, Unsealable

_SECRET = ("body", "key", "headers")
"""Members of a stored message that are payload."""


class MessageSealer:
    """Seals and opens items: the JSON of `WaitingCommand` and of quarantined messages.

    keys: read on first use. Without a keyring, items stay as they are.
    """

    def __init__(self, keys: Callable[[], Keyring | None] = lambda: None) -> None:
        self._keys = keys
        self._keyring: Keyring | None = None
        self._is_read = False

    def load(self) -> Keyring | None:
        """Read the keyring. Raises: EngineError when a key cannot be read."""
        if not self._is_read:
            self._keyring = self._keys()
            self._is_read = True
        return self._keyring

    def seal(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Seal an item for the engine. Raises: EngineError."""
        keyring = self.load()
        if keyring is None or not keyring.active:
            return dict(item)
        message = dict(item["letter"])
        secret = {name: message.pop(name) for name in _SECRET if name in message}
        found = dict(item)
        if "command" in found:
            secret["command"] = found.pop("command")
        return found | {"letter": {"of": message, "sealed": _sealed(keyring, secret, message)}}

    def open(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Open a sealed item. Raises: EngineError; EngineMisconfigured when it cannot be decrypted."""
        message = item["letter"]
        if "sealed" not in message:
            keyring = self.load()
            if keyring is not None and not keyring.accepts_plain:
                raise EngineMisconfigured("a message that waits is not encrypted, and `accept_plain` is false")
            return dict(item)
        secret = self._opened(message["sealed"], message["of"])
        found = dict(item)
        if "command" in secret:
            found["command"] = secret.pop("command")
        executed = {"executed": message["executed"]} if "executed" in message else {}
        return found | {"letter": message["of"] | secret | executed}

    def seal_key(self, key: str, place: str) -> Any:
        """Seal the text of an ordering key. place: the key of its entity. Raises: EngineError."""
        keyring = self.load()
        return key if keyring is None or not keyring.active else {"sealed": _sealed(keyring, key, place)}

    def open_key(self, key: Any, place: str) -> str:
        """Open a sealed ordering key. Raises: EngineError; EngineMisconfigured when it cannot be decrypted."""
        return str(self._opened(key["sealed"], place)) if isinstance(key, dict) else key

    def _opened(self, sealed: tuple[str, str], place: Any) -> Any:
        id_, value = sealed
        keyring = self.load()
        if keyring is None or (keyring.ids.get(_bytes(value)[2:10]) is None and id_ not in keyring.ids.values()):
            raise EngineMisconfigured(
                f"a message that waits is encrypted with key {id_!r}, which is not there; "
                "add it to `encryption` of the engine"
            )
        try:
            return json.loads(keyring.open(_bytes(value), _place(place)))
        except Unsealable as error:
            raise EngineMisconfigured(f"a message that waits, encrypted with key {id_!r}, {error}") from None


def key_of(item: Mapping[str, Any]) -> str | None:
    """Id of the key that an item is encrypted with; None of a plain item."""
    sealed = item["letter"].get("sealed")
    return None if sealed is None else str(sealed[0])


def _sealed(keyring: Keyring, value: Any, place: Any) -> list[str]:
    data = keyring.seal(json.dumps(value, separators=(",", ":")).encode(), _place(place))
    return [keyring.current.id, base64.b64encode(data).decode()]


def _bytes(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def _place(of: Any) -> bytes:
    """Canonical form, independent of the order of members, which an engine may change."""
    return json.dumps(of, sort_keys=True, separators=(",", ":")).encode()
