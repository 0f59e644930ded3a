"""Claim of one process on stored messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEASE = 30.0
"""Seconds that a claim of a process lasts after its last renewal, unless the room has a lease of its own."""


class Claim:
    """Claim of a process, which ends by itself when the process does not renew it.

    owner: name of the process; None without a claim.
    lease: end of the claim, seconds since the Unix epoch.
    """

    def __init__(self, owner: str | None = None, lease: float = 0.0) -> None:
        self.owner = owner
        self.lease = lease

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Claim:
        """Claim in the JSON of its messages."""
        return cls(document.get("owner"), document.get("lease", 0.0))

    def to_json(self) -> dict[str, Any]:
        return {"owner": self.owner, "lease": self.lease}

    def is_held(self, now: float) -> bool:
        """True while a process holds the claim."""
        return self.owner is not None and self.lease > now

    def belongs_to(self, owner: str, now: float) -> bool:
        """True while this process holds the claim."""
        return self.owner == owner and self.lease > now

    def is_old(self, now: float, lease: float = LEASE) -> bool:
        """True when the claim should be renewed."""
        return self.lease - now < lease / 2

    def take(self, owner: str, now: float, lease: float = LEASE) -> None:
        """Claim for a process, or renew its claim. Without effect while another process holds the claim."""
        if self.owner in (None, owner) or self.lease <= now:
            self.owner, self.lease = owner, now + lease

    def end(self, owner: str | None = None) -> None:
        """End the claim of a process; None: of any."""
        if owner is None or self.owner == owner:
            self.owner, self.lease = None, 0.0
