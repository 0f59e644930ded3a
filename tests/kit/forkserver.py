"""Processes of the `bridge` command, forked from one that has imported it.

`python -m bridge` spends most of a second of processor time on imports, and a test run starts hundreds of them. Each
test process therefore keeps one server that has imported the command and forks it per start. A forked process runs the
entry point of `bridge` with the arguments, directory, environment and standard streams of the request. It takes signals
and ends like any other process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PRELOADED = ("bridge.app", "bridge.cli")
"""Packages whose modules are all imported; brokers and codecs with SDKs of their own are not below them."""

_HEADER = 8
_STREAMS = 3
_POLL = 0.005

File = int | IO[Any]


class ForkedProcess:
    """Process with the interface of `subprocess.Popen`, without pipes of its own."""

    def __init__(self, args: Sequence[str], pid: int, status: int) -> None:
        self.args = list(args)
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                received = os.read(self._status, 16)
            except BlockingIOError:
                return None
            assert received, "the fork server has ended"
            self.returncode = int(received)
            os.close(self._status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(_POLL)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Client side of the server process, which ends with this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.kit.forkserver", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        *,
        stdin: File = subprocess.DEVNULL,
        stdout: File,
        stderr: File,
        env: Mapping[str, str] | None = None,
    ) -> ForkedProcess:
        """Start `bridge ARGUMENTS`."""
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        body = json.dumps(request).encode()
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 -- a device
            given = [nothing if stdin == subprocess.DEVNULL else stdin, stdout]
            given.append(stdout if stderr == subprocess.STDOUT else stderr)
            streams = [each if isinstance(each, int) else each.fileno() for each in given]
            socket.send_fds(self._socket, [len(body).to_bytes(_HEADER, "big")], [*streams, theirs])
        self._socket.sendall(body)
        os.close(theirs)
        pid = int.from_bytes(_exactly(self._socket, _HEADER), "big")
        return ForkedProcess(["bridge", *arguments], pid, ours)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_server: ForkServer | None = None


def fork_server() -> ForkServer:
    """Return the server of this test process; the first call starts it."""
    global _server
    if _server is None:
        _server = ForkServer()
    return _server


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        received = connection.recv(size - len(found))
        if not received:
            raise EOFError("the fork server has ended")
        found += received
    return found


def _serve(connection: socket.socket) -> None:
    gc.disable()
    for name in PRELOADED:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            importlib.import_module(module.name)
    gc.freeze()
    gc.enable()
    ended, wake = os.pipe()
    for descriptor in (ended, wake):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == ended:
                    os.read(ended, 4096)
                    _report_ended(running)
                elif not _take(connection, running, (ended, wake)):
                    return


def _report_ended(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for this process
            os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(report)


def _take(connection: socket.socket, running: dict[int, int], own: Sequence[int]) -> bool:
    """Fork one process. Returns False when the test process has ended."""
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER, _STREAMS + 1)
    if not header:
        return False
    request = json.loads(_exactly(connection, int.from_bytes(header, "big")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for descriptor in (*own, *running.values(), descriptors[-1]):
            os.close(descriptor)
        os._exit(_run(request, descriptors[:_STREAMS]))
    for descriptor in descriptors[:_STREAMS]:
        os.close(descriptor)
    running[pid] = descriptors[-1]
    connection.sendall(pid.to_bytes(_HEADER, "big"))
    return True


def _run(request: dict[str, Any], streams: Sequence[int]) -> int:
    """Run the command in the forked process. Returns the exit code."""
    from bridge.cli import main

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = open(number, mode, encoding="utf-8", closefd=False, buffering=1 if name == "stderr" else -1)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["bridge", *request["arguments"]]
    sys.path[0] = request["cwd"]
    added = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each not in sys.path]
    sys.path[1:1] = added
    code = 0
    try:
        main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        code = 1
        try:
            sys.excepthook(*sys.exc_info())
        except BaseException:
            traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does at its end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    return code


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _serve(given)
