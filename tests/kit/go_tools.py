"""Programs of Go modules that tests need, built once for each version of their go.mod."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".cache"


class ToolMissing(Exception):
    """Raised when this machine has no such program and cannot build one."""


def tool(module: Path, package: str, *, tags: str = "") -> Path:
    """Return the path of a program: of the variable with its name, of the PATH, or built.

    module: directory of the go.mod, with the name of the program. package: of its main function. tags: of the build.
    A module with a `build.sh` is built by it.
    Raises: ToolMissing.
    """
    name = module.name
    given = os.environ.get(name.upper()) or shutil.which(name)
    if given:
        return Path(given)
    cache = _CACHE / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = module / "build.sh"
        files = sorted(module.iterdir()) if script.exists() else [module / "go.mod", module / "go.sum"]
        sources = b"".join(file.read_bytes() for file in files)
        program = cache / hashlib.sha256(sources).hexdigest()[:16]
        if not program.exists():
            go = shutil.which("go")
            if go is None:
                raise ToolMissing(f"there is no {name} and no go to build it; set {name.upper()}")
            command = [go, "build", "-mod=readonly", "-trimpath", "-tags", tags, "-o", str(program), package]
            if script.exists():
                command = ["sh", str(script), str(program)]
            done = subprocess.run(command, cwd=module, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ToolMissing(f"go could not build {name}: {done.stderr[-500:]}")
        return program


def module_files(module: str, version: str) -> Path:
    """Return the directory with the files of a Go module; fetched at the first use. Raises: ToolMissing."""
    go = shutil.which("go")
    if go is None:
        raise ToolMissing(f"there is no go to fetch {module}")
    command = [go, "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolMissing(f"go could not fetch {module}@{version}: {done.stderr[-500:]}")
    return Path(json.loads(done.stdout)["Dir"])
