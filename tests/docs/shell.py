"""Run the commands of a document as a reader would: in order, in a directory of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from tests.docs.document import Block
from tests.kit import waiting
from tests.kit.forkserver import fork_server

TIMEOUT = 2 * waiting.TIMEOUT
"""Seconds after which a command fails; some run a test suite."""

DOCUMENTED = "127.0.0.1:8099"

_LATER = re.compile(
    r"^(bridge (status|trace|instances (list|show|wait)|entities (list|show)|(early|quarantine|jobs) list|"
    r"dlq (list|groups))|curl)( |$)"
)
"""Commands that show a state; a reader repeats them until the expected state appears."""

_OPS = {"ops": {"http": {"port": 0}, "log": {"format": "human"}}}


class Shell:
    """Shell session in a directory. Leaving the context kills the daemons that were started in it."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._address = DOCUMENTED
        self._overlay = directory / "ops-of-the-test.yaml"
        self._overlay.write_text(json.dumps(_OPS))
        python = str(Path(sys.executable).parent)
        path = os.pathsep.join((str(fork_server().command()), python, os.environ.get("PATH", "")))
        self._environment = {**os.environ, "PATH": path, "TERM": "dumb", "NO_COLOR": "1", **(environment or {})}

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()

    def run(self, block: Block) -> None:
        """Write the file of the block, or run its commands. Fails when the output differs from the document."""
        if block.mark in ("file", "overlay", "append"):
            file = self.directory / block.name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a" if block.mark == "append" else "w") as stream:
                stream.write(block.text)
        elif block.language == "console":
            for command, expected in commands(block.text):
                self._command(command, expected, f"line {block.line}: $ {command}")

    def _command(self, command: str, expected: str, where: str) -> None:
        words = shlex.split(command, comments=True)
        if words[0] == "cd":
            self.directory /= words[1]
        elif words[0] == "kill":
            running = [daemon for daemon in self._daemons if daemon.poll() is None]
            for word in words[1:]:
                _stop(running[int(word.removeprefix("%")) - 1], where)
        elif command.endswith("&"):
            said = self._serve(command.removesuffix("&"), where)
            assert matches(expected, said), f"{where}\nexpected:\n{expected}\nfound:\n{said}"
        else:
            self._once(command, expected, where)

    def _once(self, command: str, expected: str, where: str) -> None:
        ends = time.monotonic() + TIMEOUT
        while True:
            done = subprocess.run(
                ["bash", "-c", command.replace(DOCUMENTED, self._address)],
                cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            said = done.stdout.replace(self._address, DOCUMENTED)
            if done.returncode == 0 and matches(expected, said):
                return
            early = _LATER.match(command) is not None and time.monotonic() < ends
            assert early, f"{where}\nexit code {done.returncode}, expected:\n{expected}\nfound:\n{said}"
            time.sleep(0.1)

    def _serve(self, command: str, where: str) -> str:
        """Start a daemon on a free port. Returns its output up to readiness."""
        number = len(self._daemons)
        ready, log = self.directory / f"ready-{number}.json", self.directory / f"daemon-{number}.log"
        is_engine = command.startswith("bridge engine ")
        options = "--listen 127.0.0.1:0" if is_engine else f"--overlay {shlex.quote(str(self._overlay))}"
        arguments = f"exec {command} {options} --ready-file {shlex.quote(str(ready))}"
        with log.open("wb") as stream:
            daemon = subprocess.Popen(
                ["bash", "-c", arguments],
                cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        self._daemons.append(daemon)
        ends = time.monotonic() + TIMEOUT
        while not (ready.exists() and ready.read_bytes()):
            assert daemon.poll() is None, f"{where}\nthe daemon ended:\n{log.read_text()}"
            assert time.monotonic() < ends, f"{where}\nnever ready:\n{log.read_text()}"
            time.sleep(0.05)
        if is_engine:
            self._environment["ENDPOINT"] = f"http://{json.loads(ready.read_bytes())['address']}"
        elif number == 0 or self._daemons[0].poll() is not None:
            self._address = json.loads(ready.read_bytes())["http"].removeprefix("http://")
        return log.read_text().replace(self._address, DOCUMENTED)


def _stop(daemon: subprocess.Popen[bytes], where: str) -> None:
    daemon.send_signal(signal.SIGTERM)
    code = daemon.wait(TIMEOUT)
    assert code == 0, f"{where}\nthe daemon ended with exit code {code}"


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with its expected output."""
    lines = text.splitlines()
    while lines:
        first = lines.pop(0)
        assert first.startswith("$ "), f"a console block begins with a command, not with {first!r}"
        command = first[2:]
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0).lstrip()
        expected: list[str] = []
        while lines and not lines[0].startswith("$ "):
            expected.append(lines.pop(0))
        yield command.strip(), "\n".join(expected).strip("\n")


def matches(expected: str, said: str) -> bool:
    """Return whether the output matches the documented output; an empty expectation matches any output."""
    if not expected:
        return True
    found = "".join(f"{line.rstrip()}\n" for line in said.strip("\n").splitlines())
    return re.fullmatch("".join(map(_pattern, expected.splitlines())), found) is not None


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    return "[^\n]*".join(re.escape(part) for part in line.rstrip().split("...")) + "\n"
