"""Audit lines of a configuration or of the directory of an engine's file, and lines of refused commands."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.app import state
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.ops.audit import Change, record, user
from bridge.ops.trail import Trail


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filter of audit lines; None matches all.

    actor: a name or a user id.
    action: the whole action, or its part before a dot.
    """

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    action: str | None = None

    def fits(self, line: dict[str, Any]) -> bool:
        try:
            time = datetime.fromisoformat(str(line.get("time"))).astimezone(UTC)
        except ValueError:
            return False
        action = str(line.get("action"))
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.actor is None or self.actor in (line.get("actor"), str(line.get("uid"))))
            and (self.action is None or action == self.action or action.startswith(f"{self.action}."))
        )


@contextmanager
def refused(loaded: Loaded, action: str, target: str, reason: str | None) -> Iterator[None]:
    """Write the audit line of a change that fails before its target is known: with the error of the body."""
    try:
        yield
    except (BridgeError, LookupError) as error:
        word = error.reason if isinstance(error, BridgeError) else type(error).__name__
        change = Change(user(), action, target, reason=reason, result="failed", error=word)
        record(state.trail(loaded, ""), change)
        raise


def files(trails: Sequence[Trail]) -> list[Path]:
    """Files that `lines` reads."""
    return [file for trail in trails for file in trail.files()]


def lines(trails: Sequence[Trail], wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Matching lines, oldest first. Raises: BridgeError when a copy cannot be read."""
    try:
        yield from heapq.merge(
            *(filter(wanted.fits, trail.read()) for trail in trails), key=lambda line: str(line["time"])
        )
    except OSError as error:
        raise BridgeError(f"{error.filename}: {(error.strerror or '').lower()}") from error
