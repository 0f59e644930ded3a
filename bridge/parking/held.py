"""A quarantined key as it is read."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from bridge.parking.letter import Letter


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """One message. mark: what it is called by. since: when it came, seconds since the epoch.

    attempts: how often it was tried. failed: seconds since its first failure, when it was held.
    """

    mark: str
    letter: Letter
    since: float
    attempts: int
    failed: float

    @classmethod
    def of(cls, told: dict[str, Any]) -> HeldMessage:
        return cls(
            told["mark"],
            Letter.from_json(told["letter"]),
            told["since"],
            told.get("attempts", 1),
            told.get("failed", 0.0),
        )


@dataclass(frozen=True, slots=True)
class HeldKey:
    """key: as of `bridge.parking.key`. until, owner, lease: as in `bridge.parking.ward.Ward`.

    unsettled: operations wait that may change it.
    """

    source: str
    key: bytes
    messages: tuple[HeldMessage, ...]
    cause: dict[str, Any]
    until: float | None
    owner: str | None
    lease: float
    unsettled: bool = False

    @classmethod
    def of(cls, told: dict[str, Any], unsettled: bool) -> HeldKey:
        return cls(
            told["source"],
            base64.b64decode(told["key"]),
            tuple(HeldMessage.of(each) for each in told["held"]),
            told["cause"],
            told["until"],
            told["owner"],
            told["lease"],
            unsettled,
        )
