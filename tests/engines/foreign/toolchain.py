"""Programs with the SDKs of other languages, fetched and built once below `.cache/foreign`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "foreign"
JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def javascript() -> list[str]:
    """Return the command of the JavaScript program, without arguments.

    Raises: RuntimeError when it cannot be built here.
    """
    built = _built("javascript", [_tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
    return [_tool("node"), str(built / "program.js")]


def java() -> list[str]:
    """Return the command of the Java program. Raises: RuntimeError when it cannot be built here."""
    built = _built("java", [_tool("mvn"), "-q", "-B", JARS, "-DoutputDirectory=jars", "-DincludeScope=runtime"])
    return [_tool("java"), "-cp", f"{built}/jars/*", str(built / "Program.java")]


def go() -> list[str]:
    """Return the command of the Go program. Raises: RuntimeError when it cannot be built here."""
    built = _built("go", [_tool("go"), "build", "-mod=readonly", "-o", "program", "."])
    return [str(built / "program")]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"there is no {name} here, which the tests with the SDKs of other languages need")
    return found


def _built(language: str, command: list[str]) -> Path:
    """Return the directory of the built program; an earlier build of the same files is reused."""
    sources = sorted(path for path in (HERE / language).iterdir() if path.is_file())
    content = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:16]
    built = CACHE / f"{language}-{content}"
    done = built / ".built"
    if not done.exists():
        shutil.rmtree(built, ignore_errors=True)
        shutil.copytree(HERE / language, built, ignore=shutil.ignore_patterns("node_modules"))
        ran = subprocess.run(command, cwd=built, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {(ran.stdout + ran.stderr)[-2000:]}")
        done.touch()
    return built
