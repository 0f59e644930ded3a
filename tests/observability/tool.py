"""promtool, the checker of Prometheus: the one of PROMTOOL, of the PATH, or built from the Go module of go.mod."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent / "promtool"
CACHE = HERE.parents[2] / ".cache" / "promtool"
_PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"
_TAGS = "remove_all_sd"
"""The rules need no service discovery: without its clients of clouds the build takes half the time."""


class PromtoolMissing(Exception):
    """Raised when this machine has no promtool and cannot build one."""


def promtool() -> Path:
    """Return the path of promtool; build it once for each version of go.mod. Raises: PromtoolMissing."""
    given = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if given:
        return Path(given)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
        program = CACHE / hashlib.sha256(sources).hexdigest()[:16]
        if not program.exists():
            go = shutil.which("go")
            if go is None:
                raise PromtoolMissing("there is no promtool and no go to build it; set PROMTOOL")
            command = [go, "build", "-mod=readonly", "-trimpath", "-tags", _TAGS, "-o", str(program), _PACKAGE]
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PromtoolMissing(f"go could not build promtool: {done.stderr[-500:]}")
        return program
