"""Processes of the `bridge` command: one that runs to its end, and a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks._sidecar import sidecar
from tests.kit.forkserver import ROOT, ForkedProcess, fork_server
from tests.kit.waiting import TIMEOUT, eventually, eventually_blocking

__all__ = ["TIMEOUT", "DaemonProcess", "ModuleProcess", "bridge", "events", "run_bridge", "sidecar", "terminal_output"]


def terminal_output(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """Run a command that must succeed with a terminal as its standard input and output. Returns its output."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(command, stdout=secondary, stdin=secondary, cwd=cwd, env=env) as process:
        os.close(secondary)
        output = b""
        try:
            while chunk := os.read(primary, 65536):
                output += chunk
        except OSError:
            pass  # Linux reports a closed other side by this error
        assert process.wait(30) == 0
    os.close(primary)
    return output


def run_bridge(
    *arguments: str | Path,
    cwd: Path,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    umask: int | None = None,
    within: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Run `bridge ...` to its end, in a process forked from one that has imported it.

    text: standard input. env, umask: instead of those of the tests. within: seconds until it is killed.
    """
    given = [str(each) for each in arguments]
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        if text is not None:
            stdin.write(text.encode())
            stdin.seek(0)
        process = fork_server().start(given, cwd, stdin=stdin, stdout=out, stderr=error, env=env, umask=umask)
        try:
            code = process.wait(within)
        finally:
            process.kill()
        for stream in (out, error):
            stream.seek(0)
        return subprocess.CompletedProcess(["bridge", *given], code, out.read().decode(), error.read().decode())


def bridge(
    *arguments: str | Path, cwd: Path, text: str | None = None, expect: int | None = 0, within: float = TIMEOUT
) -> str:
    """Run `bridge ...` to its end. Returns standard output."""
    done = run_bridge(*arguments, cwd=cwd, text=text, within=within)
    assert expect is None or done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout


class DaemonProcess:
    """`bridge serve`, or another command with a ready file; its log is in `log`.

    ready: wait until the process is ready; False: until it has started, also without its engine. `ready` is empty then.
    ready_file: instead of a new one in the directory. umask: instead of that of the tests.
    fresh: start an interpreter of its own instead of a fork, for tests that measure the process. env, pass_fds, wrapper
    (a command that starts the rest of its line): settings of such an interpreter.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        command: str = "serve",
        ready: bool = True,
        ready_file: Path | None = None,
        umask: int | None = None,
        fresh: bool = False,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        wrapper: Sequence[str] = (),
        log: str = "daemon.log",
    ) -> None:
        self._directory = directory
        self._ready = ready_file or directory / f"ready-{time.monotonic_ns()}.json"
        self._umask = umask
        self._arguments = [command, *arguments, "--ready-file", str(self._ready)]
        self._fresh = fresh or env is not None or bool(pass_fds or wrapper)
        self._command = [*wrapper, sys.executable, "-m", "bridge", *self._arguments]
        self._options: dict[str, Any] = {"env": env, "pass_fds": pass_fds}
        self._awaits_ready = ready
        self.log = directory / log
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self.ready: dict[str, Any] = {}
        """Content of the ready file."""
        self.url = ""

    def __enter__(self) -> Self:
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            if self._fresh:
                self.process = subprocess.Popen(
                    self._command, cwd=self._directory, stdout=log, stderr=log, **self._options
                )
            else:
                self.process = fork_server().start(
                    self._arguments, self._directory, stdout=log, stderr=log, umask=self._umask
                )
        if not self._awaits_ready:
            self.wait(self._started, "started")
            return self
        self.wait(lambda: self._ready.exists() and self._ready.read_bytes(), "ready")
        self.ready = json.loads(self._ready.read_bytes())
        self.url = self.ready["http"] if "http" in self.ready else f"http://{self.ready['address']}"
        return self

    def _started(self) -> bool:
        for line in self.log.read_bytes()[self._logged :].splitlines():
            with contextlib.suppress(ValueError):
                self.url = json.loads(line).get("url", self.url)
        return bool(self.url)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self) -> int:
        """Wait for the end of the process. Returns the exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT)

    def stop(self) -> None:
        """Stop the process as an operator does; it must end with exit code 0."""
        self.signal(signal.SIGTERM)
        assert self.ended() == 0, self._end_of_log()

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until `condition()` holds; fail with the log when the daemon ends first or the time is over."""

        def holds() -> Any:
            if found := condition():
                return found
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended\n{self._end_of_log()}"
            return None

        eventually_blocking(holds, lambda: f"{what}\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        return self.log.read_text()[-4000:]

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the ops port."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=TIMEOUT) as answer:
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


class ModuleProcess:
    """`python -m MODULE ARGUMENTS` with pipes for standard input and output, forked from a process that has imported
    the bridge.
    """

    def __init__(self, module: str, *arguments: object, cwd: Path = ROOT) -> None:
        theirs, self._input = os.pipe()
        output, ours = os.pipe()
        self._output = os.fdopen(output, "rb")
        self._stream: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        given = ["-m", module, *map(str, arguments)]
        try:
            self.process = fork_server().start(given, cwd, stdin=theirs, stdout=ours, stderr=2)
        finally:
            os.close(theirs)
            os.close(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def write(self, line: str = "") -> None:
        os.write(self._input, line.encode() + b"\n")

    def read(self) -> str:
        """Wait for the next line of the output; empty at its end."""
        return self._output.readline().decode().rstrip("\n")

    async def line(self) -> str:
        """Wait for the next line without blocking the event loop."""
        if self._stream is None:
            self._stream = reader = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), self._output
            )
        async with asyncio.timeout(TIMEOUT):
            return (await self._stream.readline()).decode().rstrip("\n")

    async def ended(self) -> int:
        """Wait for the end of the process. Returns the exit code."""
        await eventually(lambda: not self.runs, f"the end of {self.process.args}")
        return self.process.wait()

    def close_input(self) -> None:
        """End the standard input of the process. Idempotent."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def end(self) -> None:
        """Kill the process if it runs, and close the pipes. Idempotent."""
        self.close_input()
        self.process.kill()
        self.process.wait()
        (self._transport or self._output).close()


@contextlib.contextmanager
def events(path: Path, lines: Sequence[Any]) -> Iterator[Path]:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield path
