"""Settings and limits of one source."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.brokers.base import SubscribeOptions
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.quarantine import QuarantineSettings
from bridge.pipeline.shares import PerValue


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Settings of one source. LimitsConfig describes each limit."""

    name: str
    subscribe: SubscribeOptions
    ordering: str = "key"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    concurrency: int = 64
    max_in_flight: int = 1000
    max_in_flight_bytes: int = 64 * 1024 * 1024
    max_key_backlog: int = 100
    max_gap: int = 10_000
    dead_letter_limit: int = 100
    trusted_replay: bool = False
    quarantine: QuarantineSettings | None = None
    per: PerValue | None = None
    config_version: str = ""
