"""Correlation ids of requests, and the signature that binds an answer to its request. Pure.

A request has the correlation id `<uuid>@<instance id>;<key id><MAC><deadline>`. The name of the event with the answer
contains only the part before the `;`: a workflow needs no key. The MAC is HMAC-SHA-256 over that part and the deadline,
cut to 128 bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CORRELATION_ID = "correlation-id"
"""Header that an answer must repeat."""

PUBLISH_ACTIVITY = "bridge.publish"
"""Name of the activity that publishes, and signs requests."""

ANSWER = "answer"
"""Member of a publish request that asks for a signed correlation id: `{"to": ..., "until": ...}`."""

SIGNED = ";signed"
"""End of the result of a publish with a signed correlation id. Earlier versions sent unsigned ones."""

KEEPS = 8
"""Most keys of an installation: the newest signs, all verify."""

SPREAD = 60.0
"""Seconds after which a new key signs. Every process has read it by then."""

SKEW = 30.0
"""Seconds by which clocks of an installation may differ."""

TRANSITION = 3600.0
"""Seconds until the first key of a task hub signs where earlier versions have used the hub.

Daemons of earlier versions, which accept no signed answers, may run beside this one meanwhile.
"""

REPLY_PREFIX = "reply:"
"""Prefix of the names of events that carry answers."""

_PLAIN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}@(.+)", re.DOTALL)
_SIGNED = re.compile(r"(.+);([A-Za-z0-9_-]{4})([A-Za-z0-9_-]{22})((?:[1-9a-z][0-9a-z]{0,8})?)", re.DOTALL)
_ID = re.compile(r"[A-Za-z0-9_-]{4}")
_MAC_BYTES = 16
_SECRET_BYTES = 32
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class CorrelationId:
    """Parts of a correlation id.

    plain: the part before the signature, which names the event.
    key_id, mac: None and empty when the id is not signed.
    until: deadline of the request in milliseconds since the Unix epoch; None: none.
    """

    plain: str
    instance_id: str
    key_id: str | None = None
    mac: str = ""
    until: int | None = None

    @property
    def event(self) -> str:
        """Name of the event with the answer."""
        return reply_event(self.plain)

    def signed_by(self, key: SigningKey) -> bool:
        """True when the key made the signature."""
        return hmac.compare_digest(self.mac.encode(), _mac(key, self.plain, self.until).encode())


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Key that signs requests.

    made: seconds since the Unix epoch.
    delay: seconds until it signs even as the first key.
    """

    id: str
    secret: bytes = field(repr=False)
    made: float
    delay: float = 0.0

    @classmethod
    def new(cls, now: float, delay: float = 0.0) -> SigningKey:
        id_ = _text(secrets.token_bytes(3))
        # A command line takes an argument that begins with a dash for an option
        return cls(f"k{id_[1:]}" if id_[0] in "-_" else id_, secrets.token_bytes(_SECRET_BYTES), now, delay)

    def sign(self, plain: str, until: int | None) -> str:
        """Correlation id with a signature."""
        return f"{plain};{self.id}{_mac(self, plain, until)}{_deadline(until)}"

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "secret": _text(self.secret), "made": self.made, "delay": self.delay}

    @classmethod
    def from_json(cls, state: Any) -> SigningKey:
        """Read a key. Raises: ValueError, TypeError, KeyError when it is damaged; a short secret could be guessed."""
        text = state["secret"]
        secret = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        made, delay = float(state["made"]), float(state["delay"])
        if _ID.fullmatch(state["id"]) is None or len(secret) < _SECRET_BYTES or not math.isfinite(made + delay):
            raise ValueError
        return cls(state["id"], secret, made, delay)


class LaterKeys(ValueError):
    """Raised for keys in the form of a later version."""


@dataclass(frozen=True, slots=True)
class SigningKeyring:
    """Signing keys of an installation, newest first.

    damaged: number of keys, or of whole states, that cannot be read.
    """

    keys: tuple[SigningKey, ...] = ()
    damaged: int = field(default=0, compare=False)

    def signer(self, now: float) -> SigningKey | None:
        """Newest key that every process knows, else the oldest; None while no key signs yet."""
        known = (key for key in self.keys if key.made + max(SPREAD, key.delay) <= now)
        return next(known, self.keys[-1] if self.keys and not self.keys[-1].delay else None)

    def find(self, key_id: str) -> SigningKey | None:
        return next((key for key in self.keys if key.id == key_id), None)

    def verifies(self, given: CorrelationId) -> bool:
        """True when one of the keys made the signature."""
        key = None if given.key_id is None else self.find(given.key_id)
        return key is not None and given.signed_by(key)

    def to_json(self) -> dict[str, Any]:
        return {"v": 1, "keys": [key.to_json() for key in self.keys]}

    def may_sign(self, now: float) -> set[str]:
        """Ids of keys that a process of the installation may sign with, or may have signed with a minute ago."""
        found = (self.signer(at) for at in (now - SPREAD, now, now + SKEW))
        return {key.id for key in found if key is not None}

    @classmethod
    def from_json(cls, state: Any) -> SigningKeyring:
        """Read the keys; leave out damaged ones, which verify nothing. Raises: LaterKeys."""
        if state is None:
            return cls()
        if not isinstance(state, Mapping):
            return cls((), 1)
        version = state.get("v", 1)
        if isinstance(version, int) and version > 1:
            raise LaterKeys
        stored = state.get("keys", ())
        if not isinstance(stored, list | tuple):
            return cls((), 1)
        keys = []
        for each in stored:
            with suppress(ValueError, TypeError, KeyError, OverflowError):
                keys.append(SigningKey.from_json(each))
        return cls(tuple(keys), len(stored) - len(keys))

    def make(self, key: SigningKey) -> SigningKeyring:
        """Keyring with a first key, or this one when it has a key."""
        return self if self.keys else SigningKeyring((key,))

    def rotate(self, key: SigningKey) -> SigningKeyring:
        """Keyring with another key, which signs once every process knows it. The others still verify.

        A full keyring stays as it is: the key that signs may be the oldest.
        """
        return self if self.find(key.id) or len(self.keys) >= KEEPS else SigningKeyring((key, *self.keys))

    def retire(self, key_id: str) -> SigningKeyring:
        """Keyring without a key, unless it is the only one. Answers to requests that it signed are refused then."""
        left = tuple(key for key in self.keys if key.id != key_id)
        return SigningKeyring(left) if left else self


def parse(text: str) -> CorrelationId | None:
    """Parse a correlation id; None when the text is not one of the bridge's requests."""
    signed = _SIGNED.fullmatch(text)
    plain = text if signed is None else signed[1]
    found = _PLAIN.fullmatch(plain)
    if found is None:
        return None
    if signed is None:
        return CorrelationId(plain, found[1])
    return CorrelationId(plain, found[1], signed[2], signed[3], int(signed[4], 36) if signed[4] else None)


def reply_event(correlation_id: str) -> str:
    """Name of the external event with the answer."""
    return f"{REPLY_PREFIX}{correlation_id}"


def answered_by(event: str) -> CorrelationId | None:
    """Correlation id of the request that an event answers; None for any other event."""
    return parse(event[len(REPLY_PREFIX) :]) if event.startswith(REPLY_PREFIX) else None


def _mac(key: SigningKey, plain: str, until: int | None) -> str:
    text = f"bridge answer 1\n{_deadline(until)}\n{plain}".encode("utf-8", "surrogatepass")
    return _text(hmac.digest(key.secret, text, hashlib.sha256)[:_MAC_BYTES])


def _deadline(until: int | None) -> str:
    """Deadline in base 36; empty for none, and for one beyond the year 5188."""
    if until is None or not 0 < until < 36**9:
        return ""
    digits = ""
    while until:
        until, rest = divmod(until, 36)
        digits = _DIGITS[rest] + digits
    return digits


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
