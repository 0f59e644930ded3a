"""Audit lines of a configuration or of the directory of an engine's file, and lines of refused commands."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.app import state
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.ops.audit import AuditedChange, record, user, word_of
from bridge.ops.trail import AuditTrail, TrailPosition


@dataclass(frozen=True, slots=True)
class AuditFilter:
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
        change = AuditedChange(user(), action, target, reason=reason, result="failed", error=word_of(error))
        record(state.trail(loaded, ""), change)
        raise


def files(trails: Sequence[AuditTrail]) -> list[Path]:
    """Files that `lines` reads."""
    return [file for trail in trails for file in trail.files()]


@dataclass(frozen=True, slots=True)
class AuditLines:
    """Part of the lines, newest first. next: places of the next part, one for each copy; None at the end."""

    lines: Sequence[dict[str, Any]]
    next: Sequence[TrailPosition] | None


def newest(
    trails: Sequence[AuditTrail],
    wanted: AuditFilter,
    limit: int,
    places: Sequence[TrailPosition] | None = None,
    most: int | None = None,
) -> AuditLines:
    """Newest matching lines, before these places. Raises: BridgeError when a copy cannot be read.

    most: lines to read, matching or not; the part may have fewer lines than `limit` then.
    """
    found: list[dict[str, Any]] = []
    count = 0
    try:
        with ExitStack() as opened:
            begins = [None] * len(trails) if places is None else places
            heads = [opened.enter_context(closing(_Reader(*each))) for each in zip(trails, begins, strict=True)]
            while len(found) < limit and (most is None or count < most):
                left = [each for each in heads if each.line is not None]
                if not left:
                    return AuditLines(found, None)
                head = max(left, key=lambda each: str(each.line and each.line["time"]))
                assert head.line is not None
                if wanted.fits(head.line):
                    found.append(head.line)
                count += 1
                head.advance()
            more = any(each.line is not None for each in heads)
            return AuditLines(found, [each.place for each in heads] if more else None)
    except OSError as error:
        raise BridgeError(f"the audit cannot be read: {error.filename}: {error.strerror}") from error


class _Reader:
    """Reader of one copy, from its end. line: the next one; None at the end. place: behind it."""

    def __init__(self, trail: AuditTrail, place: TrailPosition | None) -> None:
        self._lines = trail.read_back(place)
        begin, _ = next(self._lines, (place or TrailPosition("", 0), None))
        self.place = self._before = begin
        self.line: dict[str, Any] | None = None
        self.advance()

    def advance(self) -> None:
        """Take the next line."""
        self.place = self._before
        for place, line in self._lines:
            if line is not None and "time" in line:
                self.line, self._before = line, place
                return
            self.place = place
        self.line = None

    def close(self) -> None:
        """Close the files."""
        self._lines.close()


def lines(trails: Sequence[AuditTrail], wanted: AuditFilter) -> Iterator[dict[str, Any]]:
    """Matching lines, oldest first. Raises: BridgeError when a copy cannot be read."""
    try:
        yield from heapq.merge(
            *(filter(wanted.fits, trail.read()) for trail in trails), key=lambda line: str(line["time"])
        )
    except OSError as error:
        raise BridgeError(f"the audit cannot be read: {error.filename}: {error.strerror}") from error
