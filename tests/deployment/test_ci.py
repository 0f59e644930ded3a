"""Steps of CI: each runs once, and a failed step is not retried."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_step_runs_once() -> None:
    script = (ROOT / ".ci/run").read_text()
    steps = re.findall(r"^make (.+)$", script, re.MULTILINE)
    assert steps == ["check", "docs", "deploy-check", "demo", "test", "prove-engine", "prove-upgrade", "prove-interop"]
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script


def test_nothing_that_failed_is_run_again() -> None:
    again = re.compile(r"last-failed|--lf\b|--ff\b|failed-first|reruns?\b|flaky|retry-", re.IGNORECASE)
    for name in (".ci/run", "Makefile", "pyproject.toml", "tests/conftest.py"):
        assert not again.search((ROOT / name).read_text()), name
