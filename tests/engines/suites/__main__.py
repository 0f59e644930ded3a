"""Verify the embedded engine with an SDK's public test suite: `python -m tests.engines.suites python CHECKOUT`.

CHECKOUT: a checkout of the SDK's repository, which stays unchanged. The program prints the counts and every difference
from `expected.json`. The exit code is 1 when there is a difference; the logs are then kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.engines.suites import java_sdk, javascript_sdk, judging, python_loop, python_sdk

SUITES: dict[str, Any] = {suite.NAME: suite for suite in (python_sdk, python_loop, javascript_sdk, java_sdk)}


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in SUITES or not Path(arguments[1]).is_dir():
        print(f"usage: python -m tests.engines.suites {'|'.join(SUITES)} CHECKOUT", file=sys.stderr)
        return 2
    suite, checkout = SUITES[arguments[0]], Path(arguments[1]).resolve()
    try:
        version = suite.version(checkout)
    except (OSError, KeyError, ValueError) as error:
        print(f"{checkout} is no checkout of the {suite.NAME} SDK: {error}", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="suites-"))
    print(f"{suite.NAME} {version}: logs in {work}", flush=True)
    try:
        outcomes = suite.run(checkout, work)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{suite.NAME} {version}: the suite did not come to its end: {error}", file=sys.stderr)
        return 1
    print(f"{suite.NAME} {version}: {judging.counts(outcomes)}")
    expected = judging.load(suite.NAME, version)
    if expected is None:
        print(f"{judging.EXPECTED.name} has no list for this version; compared with an empty one:")
    found = judging.differences(outcomes, expected or judging.Expected(passed=0))
    if found or expected is None:
        print("\n".join(found))
        return 1
    print("as expected")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
