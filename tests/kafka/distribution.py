"""Locations of the Apache Kafka jars: a distribution, or Maven Central by the pom beside this file."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "kafka"


class KafkaMissing(Exception):
    """Raised when this machine cannot run a Kafka broker."""


def java() -> str:
    """Return the java command. Raises: KafkaMissing."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise KafkaMissing("there is no java")
    return found


def classpath() -> str:
    """Return the class path for `java -cp`; download the jars once. Raises: KafkaMissing."""
    home = os.environ.get("KAFKA_HOME")
    if home:
        return f"{home}/libs/*"
    pom = HERE / "pom.xml"
    jars = CACHE / "jars"
    stamp = CACHE / "pom.xml"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != pom.read_bytes():
            maven = shutil.which("mvn")
            if maven is None:
                raise KafkaMissing("there is no mvn to fetch Kafka with; set KAFKA_HOME")
            shutil.rmtree(jars, ignore_errors=True)
            command = [
                maven, "-q", "-B", "-f", str(pom),
                "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
                f"-DoutputDirectory={jars}", "-DincludeScope=runtime",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise KafkaMissing(f"mvn could not fetch Kafka: {done.stdout[-500:]}")
            shutil.copy(pom, stamp)
    return f"{jars}/*"
