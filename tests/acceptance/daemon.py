"""Real `bridge` command in a process of its own, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks._sidecar import sidecar

TIMEOUT = 60.0

__all__ = ["TIMEOUT", "Serve", "bridge", "sidecar"]


def bridge(*arguments: str | Path, cwd: Path, text: str | None = None, expect: int | None = 0) -> str:
    """Run `bridge ...` to its end. Returns standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "bridge", *map(str, arguments)],
        cwd=cwd, input=text, text=True, capture_output=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert expect is None or done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout


class Serve:
    """`bridge serve` on a free port; its log is in `log`."""

    def __init__(self, directory: Path, *arguments: str, command: str = "serve") -> None:
        self._directory = directory
        self._ready = directory / f"ready-{time.monotonic_ns()}.json"
        self._command = [sys.executable, "-m", "bridge", command, *arguments, "--ready-file", str(self._ready)]
        self._popen: dict[str, Any] = {}
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Serve:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=self._directory, stdout=log, stderr=log, **self._popen)
        self.wait(lambda: self._ready.exists() and self._ready.read_bytes(), "ready")
        received = json.loads(self._ready.read_bytes())
        self.url = received["http"] if "http" in received else f"http://{received['address']}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self) -> int:
        """Wait for the end of the process. Returns the exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT)

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, condition: Any, what: str) -> None:
        """Wait until `condition()` holds; fail with the log when the daemon ends first or the time is over."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"never came: {what}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the ops port."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    def metrics(self, name: str) -> dict[str, float]:
        """Return the samples of one metric by their labels as written."""
        found = {}
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith((name + "{", name + " ")):
                labels, _, value = line.removeprefix(name).rpartition(" ")
                found[labels] = float(value)
        return found

    def settled(self) -> int:
        return int(sum(self.metrics("bridge_outcomes_total").values()))

    def lag(self) -> int:
        """Number of records behind; -1 while no partition is assigned or an end is unknown."""
        found = self.metrics("bridge_lag")
        return (
            int(sum(found.values()))
            if found and found.keys() == self.metrics("bridge_uncommitted_records").keys()
            else -1
        )


@contextlib.contextmanager
def events(path: Path, lines: Sequence[Any]) -> Iterator[Path]:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield path
