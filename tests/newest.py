"""`make newest`: the tests with the newest version of every dependency, in a throw-away environment.

Upper bounds of versions are ignored.

Arguments go to pytest: `python -m tests.newest tests/engines -x`. Set `UV_PYTHON` for another Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
UV = str(Path(sys.executable).with_name("uv"))
UPPER = ("<", "<=", "~=", "==", "===")
"""Operators of upper bounds."""


def unbounded(requirement: str) -> str:
    """Requirement without its upper bounds."""
    found = Requirement(requirement)
    found.specifier = SpecifierSet(",".join(str(each) for each in found.specifier if each.operator not in UPPER))
    return str(found)


def declared(project: dict[str, Any]) -> Iterator[str]:
    """Requirements of the package, of all its extras, and of the tests."""
    yield from project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        yield from extra
    yield from group(project["dependency-groups"], "dev")


def group(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    """Requirements of a dependency group and of those that it includes."""
    for each in groups[name]:
        if isinstance(each, str):
            yield each
        else:
            yield from group(groups, each["include-group"])


def versions(python: Path) -> dict[str, str]:
    """Versions of the packages that are installed for an interpreter."""
    command = [UV, "pip", "list", "--quiet", "--format", "json", "--python", str(python)]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {each["name"]: each["version"] for each in listed}


def install(directory: Path, requirements: Iterable[str]) -> Path:
    """Create an environment with these requirements and the bridge; return its interpreter."""
    subprocess.run([UV, "venv", "--quiet", str(directory)], check=True)
    python = directory / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", str(python), "--link-mode", "copy"]
    subprocess.run([*install, "--upgrade", *sorted(set(requirements))], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    return python


def main(arguments: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory(prefix="bridge-newest-") as place:
        python = install(Path(place) / "venv", map(unbounded, declared(project)))
        locked, newest = versions(Path(sys.executable)), versions(python)
        for name in sorted(newest):
            if name in locked and locked[name] != newest[name]:
                print(f"{name} {locked[name]} -> {newest[name]}", flush=True)
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["-n", "6"]))
