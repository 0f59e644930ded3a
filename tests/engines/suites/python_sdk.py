"""Suites of microsoft/durabletask-python: its tests with its own SDK, both from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.engines.suites.engine import engine

NAME = "python"
MINUTES = 30
"""Time limit of one suite, in minutes. Each test has SECONDS."""
SECONDS = 180

SCHEDULER, CORE = (
    (Path("tests/durabletask-azuremanaged"), 'os.getenv("ENDPOINT"'),
    (Path("tests/durabletask"), "create_test_backend"),
)
"""Folder of each suite, and a word in its tests that need an engine.

The word is the scheduler's address, or the in-memory backend that the SDK's own suite creates for each test. The other
tests use the SDK alone.
"""


def version(checkout: Path) -> str:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def run(checkout: Path, work: Path, plugin: str = "stand_in") -> dict[str, str]:
    """Return the outcome of every test by its id.

    work: empty directory for copies, state and logs. plugin: of pytest; `stand_in` tests the SDK of the checkout, other
    plugins the installed one. Raises: RuntimeError when a suite does not complete.
    """
    copy = work / "suites"
    assemble(checkout, copy, with_sdk=plugin == "stand_in")
    with ThreadPoolExecutor() as pool:
        scheduler = pool.submit(judged, copy, work / "scheduler", *SCHEDULER, plugin)
        core = pool.submit(judged, copy, work / "core", *CORE, plugin)
        return scheduler.result() | core.result()


def assemble(checkout: Path, copy: Path, *, with_sdk: bool = True) -> None:
    """Arrange the tests and the plugins, and the SDK's two distributions as installed beside them."""
    compiled = shutil.ignore_patterns("__pycache__")
    if with_sdk:
        shutil.copytree(checkout / "durabletask", copy / "durabletask", ignore=compiled)
        managed = "durabletask/azuremanaged"
        shutil.copytree(checkout / "durabletask-azuremanaged" / managed, copy / managed, ignore=compiled)
    for tests, _ in (SCHEDULER, CORE):
        shutil.copytree(checkout / tests, copy / tests, ignore=compiled)
    for file in ("tests/__init__.py", "pyproject.toml"):
        shutil.copy(checkout / file, copy / file)
    for name in ("stand_in.py", "loop_stand_in.py"):
        shutil.copy(Path(__file__).with_name(name), copy)


def judged(copy: Path, work: Path, folder: Path, word: str, plugin: str) -> dict[str, str]:
    files = [str(file) for file in sorted((copy / folder).rglob("test_*.py")) if word in file.read_text()]
    if not files:
        raise RuntimeError(f"no test below {folder} has {word} in it")
    outcomes = work / "outcomes.json"
    with engine(work) as port:
        environment = os.environ | {
            "ENDPOINT": f"http://localhost:{port}",
            "TASKHUB": "default",
            "ENGINE_PORT": str(port),
            "OUTCOMES": str(outcomes),
            "PYTHONPATH": str(copy),
        }
        options = ["-p", plugin, "-p", "no:bridge", "-p", "no:cacheprovider", f"--timeout={SECONDS}", "--tb=short"]
        command = [sys.executable, "-m", "pytest", "-q", *options, *files]
        with (work / "pytest.log").open("w") as log:
            done = subprocess.run(
                command, cwd=copy, env=environment, stdout=log, stderr=log, timeout=MINUTES * 60, check=False
            )
    if done.returncode not in (0, 1) or not outcomes.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}: {(work / 'pytest.log').read_text()[-4000:]}")
    found: dict[str, str] = json.loads(outcomes.read_text())
    return found
