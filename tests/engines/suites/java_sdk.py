"""Integration tests of microsoft/durabletask-java with its own SDK, both from the checkout.

Maven builds the SDK: the Gradle build of the repository needs plugins from a separate portal.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from tests.engines.suites.engine import engine

NAME = "java"
MINUTES = 30
"""Time limit of the suite including its build, in minutes."""

BUILD = Path("client/build.gradle")
POM = Path(__file__).with_name("java_pom.xml")
SOURCES = {
    "client/src/main/java": "src/main/java",
    "azuremanaged/src/main/java": "src/main/java",
    "internal/durabletask-protobuf/protos": "src/main/proto",
    "client/src/test/java": "src/test/java",
}
"""Folders of the checkout, and their places in the Maven project."""

MANAGED = "com/microsoft/durabletask/azuremanaged/VersionInfo.java"
EMULATOR = "localhost:4001"
"""Engine address in the source of the tests."""


def version(checkout: Path) -> str:
    found = re.search(r"^version = '([^']+)'", (checkout / BUILD).read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{BUILD} names no version")
    return found[1]


def run(checkout: Path, work: Path) -> dict[str, str]:
    """Run the suite as `python_sdk.run` does. Dependencies come from Maven Central."""
    copy = work / "suite"
    with engine(work / "engine") as port:
        assemble(checkout, copy, port)
        command = ["mvn", "-B", "test", *(f"-D{name}={value}" for name, value in versions(checkout).items())]
        with (work / "maven.log").open("w") as log:
            done = subprocess.run(command, cwd=copy, stdout=log, stderr=log, timeout=MINUTES * 60, check=False)
    reports = sorted((copy / "target/surefire-reports").glob("TEST-*.xml"))
    if not reports:
        raise RuntimeError(f"Maven ended with {done.returncode}: {(work / 'maven.log').read_text()[-4000:]}")
    found: dict[str, str] = {}
    for report in reports:
        found |= outcomes(report.read_text())
    return found


def versions(checkout: Path) -> dict[str, str]:
    """Return the versions of the libraries by their names in the build: `grpc`, `protoc`, ..."""
    return dict(re.findall(r"^def (\w+)Version = '([^']+)'", (checkout / BUILD).read_text(), re.MULTILINE))


def assemble(checkout: Path, copy: Path, port: int) -> None:
    """Arrange the SDK and its tests as one Maven project; the tests connect to the engine's port."""
    for source, place in SOURCES.items():
        shutil.copytree(checkout / source, copy / place, dirs_exist_ok=True)
    shutil.copy(POM, copy / "pom.xml")
    template = (checkout / "azuremanaged/src/main/resources/VersionInfo.java.template").read_text()
    (copy / "src/main/java" / MANAGED).write_text(template.replace("${version}", version(checkout)))
    for test in (copy / "src/test/java").rglob("*.java"):
        test.write_text(test.read_text().replace(EMULATOR, f"localhost:{port}"))


def outcomes(report: str) -> dict[str, str]:
    """Parse a Surefire report of one class. A class that could not be loaded counts as one failed test."""
    found: dict[str, str] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"] = outcome
    return found
