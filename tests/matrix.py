"""`make matrix`: the built package in clean environments, on each supported Python that is on this machine.

Builds wheel and sdist, checks them, and installs the wheel without the lock files, as a user does: the command works, a
new project passes its own checks and tests, and with all extras every module can be imported. Arguments are versions
of Python, like `3.12`; without them all supported versions are tried. `--dist DIRECTORY` keeps wheel and sdist when all
have passed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = str(Path(sys.executable).with_name("uv"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORT_ALL = """
import importlib, pkgutil, bridge
names = [each.name for each in pkgutil.walk_packages(bridge.__path__, "bridge.") if not each.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""


def supported() -> list[str]:
    """Versions of Python in the package's classifiers."""
    prefix = "Programming Language :: Python :: "
    versions = (each.removeprefix(prefix) for each in PROJECT["classifiers"] if each.startswith(prefix))
    return [each for each in versions if "." in each]


def find(version: str) -> str | None:
    """Interpreter of a version on this machine: in the PATH, of uv, or of pyenv."""
    command = [UV, "python", "find", "--no-python-downloads", "--no-project", version]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")
    return found or next(map(str, sorted(pyenv)), None)


def build(directory: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it. Returns wheel and sdist."""
    _run([UV, "build", "--quiet", "--out-dir", str(directory), str(ROOT)])
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    _run([str(ROOT / ".venv/tools/bin/python"), "-m", "twine", "check", "--strict", str(wheel), str(sdist)])
    return wheel, sdist


def try_version(python: str, wheel: Path, directory: Path) -> None:
    """Install the wheel in a new environment and use it. Raises: CalledProcessError."""
    venv, home = directory / "venv", directory / "home"
    home.mkdir(parents=True)
    _run([python, "-m", "venv", str(venv)])
    environ = {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", **_index()}
    pip = ["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, str(wheel)], home, environ)
    _run(["bridge", "--version"], home, environ)
    _run(["bridge", "init", "shop"], home, environ)
    shop = home / "shop"
    _run([*pip, "--requirement", "requirements.txt"], shop, environ)
    _run(["bridge", "check", "--strict"], shop, environ)
    _run(["bridge", "test"], shop, environ)
    _run(["python", "-m", "pytest", "--quiet"], shop, environ)
    _run([*pip, f"{wheel}[{','.join(PROJECT['optional-dependencies'])}]"], home, environ)
    _run(["python", "-c", IMPORT_ALL], home, environ)


def try_tool(wheel: Path, directory: Path) -> None:
    """Install the wheel as a tool with an extra. Raises: CalledProcessError."""
    environ = os.environ | {"UV_TOOL_DIR": str(directory / "tools"), "UV_TOOL_BIN_DIR": str(directory / "bin")}
    _run([UV, "tool", "install", "--quiet", f"durable-bridge[kafka] @ {wheel.as_uri()}"], directory, environ)
    _run([str(directory / "bin" / "bridge"), "--version"], directory, environ)


def _index() -> dict[str, str]:
    """Variables that name the package index of this machine."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "REQUESTS_"))}


def _run(command: list[str], cwd: Path = ROOT, environ: dict[str, str] | None = None) -> None:
    shown = [Path(command[0]).name, *("..." if "\n" in each else each for each in command[1:])]
    print("  $", *shown, flush=True)
    # `env` looks the command up in the PATH of the new environment
    done = subprocess.run(["env", *command], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
        raise subprocess.CalledProcessError(done.returncode, command)


def _results(versions: list[str], place: Path) -> Iterator[tuple[str, bool]]:
    wheel, sdist = build(place / "dist")
    print(f"{wheel.name} and {sdist.name} are valid", flush=True)
    try_tool(wheel, place)
    for version in versions:
        python = find(version)
        print(f"Python {version}: {python or 'not on this machine'}", flush=True)
        if python is not None:
            try:
                try_version(python, wheel, place / version)
            except subprocess.CalledProcessError:
                yield version, False
            else:
                yield version, True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.matrix")
    parser.add_argument("versions", nargs="*", default=supported())
    parser.add_argument("--dist", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bridge-matrix-") as place:
        results = list(_results(given.versions, Path(place)))
        failed = [version for version, passed in results if not passed]
        if given.dist is not None and results and not failed:
            shutil.copytree(Path(place) / "dist", given.dist, dirs_exist_ok=True)
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed{''.join(f', {each}' for each in failed)}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
