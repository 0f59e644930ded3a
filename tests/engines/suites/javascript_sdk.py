"""Scheduler suite of microsoft/durabletask-js: its tests with its own SDK, both from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.engines.suites.engine import engine

NAME = "javascript"
MINUTES = 30
"""Time limit of one test file, in minutes."""
FILES = 3
"""Number of test files at a time. Each has its own task hub, since any worker of a hub receives all its work."""

TESTS = Path("test/e2e-azuremanaged")
PACKAGES = Path("packages")
OUTCOMES = {"passed": "passed", "failed": "failed", "pending": "skipped", "todo": "skipped", "skipped": "skipped"}


def version(checkout: Path) -> str:
    package = json.loads((checkout / PACKAGES / "durabletask-js/package.json").read_text())
    return str(package["version"])


def run(checkout: Path, work: Path) -> dict[str, str]:
    """Run the suite as `python_sdk.run` does. Dependencies come from npm."""
    copy = work / "suites"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "node_modules", "dist"))
    # Not `npm ci`: the lock file of the repository may lag behind its packages.
    _done(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], copy)
    _done(["npm", "run", "prebuild", "--workspaces", "--if-present"], copy)
    found: dict[str, str] = {}
    with engine(work / "engine") as port, ThreadPoolExecutor(FILES) as pool:
        files = sorted((copy / TESTS).glob("*.spec.ts"))
        for each in pool.map(lambda file: _judged(copy, work, file, port), files):
            found |= each
    return found


def _judged(copy: Path, work: Path, file: Path, port: int) -> dict[str, str]:
    name = file.name.removesuffix(".spec.ts")
    report, log = work / f"{name}.json", work / f"{name}.log"
    with log.open("w") as out:
        subprocess.run(
            ["npx", "jest", str(file), "--runInBand", "--forceExit", "--silent", "--json", f"--outputFile={report}"],
            cwd=copy,
            env=os.environ | {"ENDPOINT": f"localhost:{port}", "TASKHUB": name},
            stdout=out,
            stderr=out,
            timeout=MINUTES * 60,
            check=False,
        )
    if not report.exists():
        raise RuntimeError(f"jest did not come to its end: {log.read_text()[-4000:]}")
    return outcomes(json.loads(report.read_text()), copy)


def outcomes(report: dict[str, Any], copy: Path) -> dict[str, str]:
    """Parse a report of jest. A file that could not be loaded counts as one failed test."""
    found: dict[str, str] = {}
    for file in report["testResults"]:
        name = str(Path(file["name"]).relative_to(copy))
        if not file["assertionResults"]:
            found[name] = "failed"
        found |= {f"{name}::{each['fullName']}": OUTCOMES[each["status"]] for each in file["assertionResults"]}
    return found


def _done(command: list[str], directory: Path) -> None:
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(ran.stdout + ran.stderr)[-2000:]}")
