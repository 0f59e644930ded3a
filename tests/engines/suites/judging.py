"""Comparison of the results of a suite with the committed expectations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("expected.json")

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected results of a suite.

    passed: number of passed tests. failed, skipped: the reason for each test that does not pass, by its id.
    """

    passed: int
    failed: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Expected:
        """Parse expectations. Raises: ValueError when a test has no reason or is in both lists."""
        failed, skipped = found.get(FAILED, {}), found.get(SKIPPED, {})
        for test, reason in (*failed.items(), *skipped.items()):
            if not reason.strip():
                raise ValueError(f"{test} is on the list without a reason")
        if both := sorted(failed.keys() & skipped.keys()):
            raise ValueError(f"on the list as failed and as skipped: {', '.join(both)}")
        return cls(found["passed"], failed, skipped)


def load(suite: str, version: str, path: Path | None = None) -> Expected | None:
    """Return the committed expectations for this version of the SDK; None when there are none."""
    found = json.loads((path or EXPECTED).read_text()).get(suite, {}).get(version)
    return None if found is None else Expected.read(found)


def counts(outcomes: Mapping[str, str]) -> str:
    found = Counter(outcomes.values())
    return ", ".join(f"{found[outcome]} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))


def differences(outcomes: Mapping[str, str], expected: Expected) -> list[str]:
    """Return one line for each test with an unexpected outcome, and one for a wrong number of passed tests.

    outcomes: `passed`, `failed` or `skipped` by the test's id.
    """
    wanted = dict.fromkeys(expected.failed, FAILED) | dict.fromkeys(expected.skipped, SKIPPED)
    found = []
    for test in sorted(wanted.keys() | outcomes.keys()):
        outcome, want = outcomes.get(test, "not run"), wanted.get(test, PASSED)
        if outcome != want:
            reason = expected.failed.get(test) or expected.skipped.get(test)
            found.append(f"{test}: {outcome}, expected {want}" + (f" ({reason})" if reason else ""))
    passed = sum(outcome == PASSED for outcome in outcomes.values())
    if passed != expected.passed:
        found.append(f"{passed} tests passed, expected {expected.passed}")
    return found
