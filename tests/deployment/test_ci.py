"""Steps of CI: each runs once, and a failed step is not retried."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_step_runs_once() -> None:
    script = (ROOT / ".ci/run").read_text()
    steps = re.findall(r"^make (.+)$", script, re.MULTILINE)
    tests = ["test", "test-long", "prove-engine", "prove-upgrade", "prove-interop"]
    assert steps == ["check", "docs", "deploy-check", "demo", *tests]
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script


def test_every_test_but_the_proofs_is_in_one_step() -> None:
    made = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(test|test-long):.*\n\t\$\(PYTEST\) -m \"\$\((\w+)\)\"$", made, re.MULTILINE)
    assert [target for target, _ in targets] == ["test", "test-long"]
    expressions = [re.findall(rf"^{name} := (.+)$", made, re.MULTILINE)[0] for _, name in targets]
    for prove, chart, long in product((False, True), repeat=3):
        marks = {"prove": prove, "chart": chart, "long": long}
        chosen = sum(bool(eval(each, marks.copy())) for each in expressions)
        assert chosen == (not prove and not chart), marks


def test_nothing_that_failed_is_run_again() -> None:
    again = re.compile(r"last-failed|--lf\b|--ff\b|failed-first|reruns?\b|flaky|retry-", re.IGNORECASE)
    for name in (".ci/run", "Makefile", "pyproject.toml", "tests/conftest.py"):
        assert not again.search((ROOT / name).read_text()), name
