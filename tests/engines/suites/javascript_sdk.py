"""The suite of microsoft/durabletask-js for the scheduler: its tests with its own SDK, both from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.engines.suites.engine import engine

NAME = "javascript"
MINUTES = 30
"""Bound on the suite."""

TESTS = Path("test/e2e-azuremanaged")
PACKAGES = Path("packages")
OUTCOMES = {"passed": "passed", "failed": "failed", "pending": "skipped", "todo": "skipped", "skipped": "skipped"}


def version(checkout: Path) -> str:
    package = json.loads((checkout / PACKAGES / "durabletask-js/package.json").read_text())
    return str(package["version"])


def run(checkout: Path, work: Path) -> dict[str, str]:
    """As `python_sdk.run`. What the checkout needs comes from npm."""
    copy = work / "suites"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "node_modules", "dist"))
    # Not `npm ci`: the lock file of the repository may lag behind its packages.
    _done(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], copy)
    _done(["npm", "run", "prebuild", "--workspaces", "--if-present"], copy)
    found = work / "outcomes.json"
    with engine(work / "engine") as port, (work / "jest.log").open("w") as log:
        subprocess.run(
            ["npx", "jest", str(TESTS), "--runInBand", "--forceExit", "--silent", "--json", f"--outputFile={found}"],
            cwd=copy,
            env=os.environ | {"ENDPOINT": f"localhost:{port}", "TASKHUB": "default"},
            stdout=log,
            stderr=log,
            timeout=MINUTES * 60,
            check=False,
        )
    if not found.exists():
        raise RuntimeError(f"jest did not come to its end: {(work / 'jest.log').read_text()[-4000:]}")
    return outcomes(json.loads(found.read_text()), copy)


def outcomes(report: dict[str, list[dict[str, object]]], copy: Path) -> dict[str, str]:
    """report: of jest. A file that could not be loaded counts as one failed test."""
    found: dict[str, str] = {}
    for file in report["testResults"]:
        name = str(Path(str(file["name"])).relative_to(copy))
        results = file["assertionResults"]
        assert isinstance(results, list)
        if not results:
            found[name] = "failed"
        found |= {f"{name}::{each['fullName']}": OUTCOMES[each["status"]] for each in results}
    return found


def _done(command: list[str], directory: Path) -> None:
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(ran.stdout + ran.stderr)[-2000:]}")
