"""Verification of the test server with the Python SDK's own tests that need a live namespace.

The tests come with the SDK's source distribution, which is fetched for the installed version and kept in the user's
cache. `python_sdk/` replaces the packages with which the tests create entities, and lists the expected failures with
reasons.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.servicebus.process import ServerProcess

pytestmark = [pytest.mark.prove, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "python_sdk"
VERSION = importlib.metadata.version("azure-servicebus")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "durable-bridge" / "azure-servicebus"
FILES = (
    "test_queues.py",
    "test_sessions.py",
    "test_subscriptions.py",
    "test_topic.py",
    "test_list_sessions.py",
    "test_message.py",
    "test_sb_client.py",
    "test_batch_sizing.py",
)
HELPERS = ("mocks.py", "utilities.py", "sb_env_loader.py")
EXPECTED: dict[str, dict[str, str]] = json.loads((HERE / "expected.json").read_text())
"""Tests that fail, are skipped, or are left out for their duration, each with the reason."""

WORKERS = 16
"""Number of parallel test processes: the tests mostly wait for locks and for absent messages."""

INI = """[pytest]
markers =
    liveTest: needs a namespace
    live_test_only: the same
    playback_test_only: needs recordings
"""


def _sources() -> Path:
    """Return the directory with the SDK's tests, fetched once for each version."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = CACHE / f"azure_servicebus-{VERSION}"
        if not (place / "PKG-INFO").exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--no-binary", "azure-servicebus", "--dest", str(CACHE), f"azure-servicebus=={VERSION}"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"pip could not fetch the SDK's source:\n{done.stderr[-2000:]}"
            with tarfile.open(CACHE / f"azure_servicebus-{VERSION}.tar.gz") as archive:
                archive.extractall(CACHE, filter="data")
    return place / "tests"


def _laid_out(place: Path) -> Path:
    """Copy the SDK's tests and the replacement packages to a directory outside the repository."""
    sources = _sources()
    for name in (*FILES, *HELPERS):
        shutil.copy(sources / name, place)
    shutil.copytree(HERE, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    (place / "judge_conftest.py").rename(place / "conftest.py")
    (place / "pytest.ini").write_text(INI)
    return place


def _outcome(case: ET.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        if case.find(kind) is not None:
            return kind
    return "passed"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outcome of each test: passed, failure, error, skipped."""
    place = _laid_out(tmp_path_factory.mktemp("python-sdk"))
    report = place / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "--timeout=200", f"--junitxml={report}"]
    command += [f"--deselect={name}" for name in EXPECTED["left_out"]]
    with ServerProcess() as server:
        environment = os.environ | {
            "SERVICEBUS_CONNECTION": server.connection_string,
            "SERVICEBUS_CONTROL": str(server.control),
            "PYTHONPATH": str(place),
            "PYTEST_ADDOPTS": "",
        }
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *FILES],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=570,
        )
        counters = server.counters()
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    assert counters["crashes"] == []
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        module = str(case.get("classname")).split(".")[0]
        found[f"{module}::{case.get('name')}"] = _outcome(case)
    return found


def test_the_sdk_s_own_tests_pass_but_for_those_that_are_listed(outcomes: dict[str, str]) -> None:
    """A listed test that passes fails this test: the list must be accurate."""
    expected = EXPECTED["fail"]
    wrong = {name for name, outcome in outcomes.items() if outcome in ("failure", "error")}
    assert dict.fromkeys(wrong - expected.keys(), "fails") == {}
    assert {name: outcomes.get(name) for name in expected.keys() - wrong} == {}


def test_all_of_them_were_tried(outcomes: dict[str, str]) -> None:
    assert {name for name, outcome in outcomes.items() if outcome == "skipped"} == EXPECTED["skip"].keys()
    assert len(outcomes) >= 170
