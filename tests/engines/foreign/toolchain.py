"""Programs with the SDKs of other languages, fetched and built once below `.cache/foreign`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "foreign"
JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def javascript(sources: Path = HERE / "javascript", program: str = "program.js") -> list[str]:
    """Return the command of a JavaScript program, without arguments.

    Raises: RuntimeError when it cannot be built here.
    """
    built = _built(sources, [_tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
    return [_tool("node"), str(built / program)]


def java(sources: Path = HERE / "java", program: str = "Program.java") -> list[str]:
    """Return the command of a Java program. Raises: RuntimeError when it cannot be built here."""
    built = _built(sources, [_tool("mvn"), "-q", "-B", JARS, "-DoutputDirectory=jars", "-DincludeScope=runtime"])
    return [_tool("java"), "-cp", f"{built}/jars/*", str(built / program)]


def go(sources: Path = HERE / "go") -> list[str]:
    """Return the command of a Go program. Raises: RuntimeError when it cannot be built here."""
    built = _built(sources, [_tool("go"), "build", "-mod=readonly", "-o", "program", "."])
    return [str(built / "program")]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"there is no {name} here, which the tests with the SDKs of other languages need")
    return found


def fastapi(sources: Path) -> list[str]:
    """Return the command of a Python program with inline metadata (PEP 723), in an environment of its packages.

    Raises: RuntimeError when it cannot be built here.
    """
    [program] = [path for path in sources.iterdir() if "# /// script" in path.read_text()]
    found = re.search(r"^# dependencies = (\[.*\])$", program.read_text(), re.MULTILINE)
    assert found is not None
    packages = json.loads(found[1])
    install = f"{sys.executable} -m venv venv && venv/bin/pip install -q {shlex.join(packages)}"
    built = _built(sources, ["sh", "-c", install])
    return [str(built / "venv" / "bin" / "python"), str(built / program.name)]


def _built(sources: Path, command: list[str]) -> Path:
    """Return the directory of the built program; an earlier build of the same files is reused."""
    files = sorted(path for path in sources.iterdir() if path.is_file())
    content = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:16]
    built = CACHE / f"{sources.name}-{content}"
    done = built / ".built"
    if not done.exists():
        shutil.rmtree(built, ignore_errors=True)
        shutil.copytree(sources, built, ignore=shutil.ignore_patterns("node_modules"))
        ran = subprocess.run(command, cwd=built, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {(ran.stdout + ran.stderr)[-2000:]}")
        done.touch()
    return built
