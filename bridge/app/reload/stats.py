"""Counts of the reloads of one process."""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum


class ReloadResult(StrEnum):
    """Result of a reload. REFUSED: nothing has changed."""

    RELOADED = "reloaded"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Reloads:
    """Version of the configuration in use, and results of reloads. Implements `bridge.ops.metric_stats.ReloadStats`.

    successful: False after a refused reload, until another one succeeds.
    succeeded_at: time of the start, or of the last successful reload, in seconds since the Unix epoch.
    since: time since which the version is in use.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.results: Counter[str] = Counter(dict.fromkeys(ReloadResult, 0))
        self.successful = True
        self.detail = ""
        """Cause of the last refused reload; empty after a successful one."""
        self.since = self.succeeded_at = time.time()

    def succeed(self, version: str, *, changed: bool) -> None:
        """Count a successful reload. changed: the configuration differs from the one before."""
        self.results[ReloadResult.RELOADED if changed else ReloadResult.UNCHANGED] += 1
        self.successful, self.detail = True, ""
        self.succeeded_at = time.time()
        if version != self.version:
            self.version, self.since = version, self.succeeded_at

    def refuse(self, detail: str) -> None:
        """Count a refused reload."""
        self.results[ReloadResult.REFUSED] += 1
        self.successful, self.detail = False, detail
