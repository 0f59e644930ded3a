"""Processes of the `bridge` command, forked from one that has imported it.

`python -m bridge` spends most of a second of processor time on imports, and a test run starts hundreds of them. A run
therefore keeps one server, which imports the bridge at the first start and forks it per start; the processes of a
distributed run share that of the main process. A forked process runs the entry point of `bridge`, or after `-m` a
module of the tests, with the arguments, directory, environment and standard streams of the request. It takes signals
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
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

import bridge

ROOT = Path(__file__).parents[2]
_HEADER = 8
_STREAMS = 3

File = int | IO[Any]


class ForkedProcess:
    """Process with the interface of `subprocess.Popen`, without pipes of its own. It ends with the test process."""

    def __init__(self, args: Sequence[str], connection: socket.socket) -> None:
        self.args = list(args)
        self.pid = int.from_bytes(_exactly(connection, _HEADER), "big")
        self.returncode: int | None = None
        self._connection = connection
        connection.setblocking(False)

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                received = self._connection.recv(16)
            except BlockingIOError:
                return None
            assert received, "the fork server has ended"
            self.returncode = int(received)
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            select.select([self._connection], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since, as with `subprocess`
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server process. It ends with the process that started it."""

    def __init__(self, address: str | None = None) -> None:
        """Start a server. address: of one that runs, instead."""
        self._directory = Path(tempfile.mkdtemp(prefix="forks-"))
        self.address = address or str(self._directory / "socket")
        atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
        if address is None:
            self._launch()

    def _launch(self) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.address)
        listening.listen(64)
        self._life, theirs = socket.socketpair()
        given = [listening.fileno(), theirs.fileno()]
        command = [sys.executable, "-m", "tests.kit.forkserver", *map(str, given)]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=given, stdin=subprocess.DEVNULL)
        for each in (listening, theirs):
            each.close()
        # It imports for seconds, and on a loaded machine for a minute, which no limit of a test should include
        _exactly(self._life, 1)

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        *,
        stdin: File = subprocess.DEVNULL,
        stdout: File,
        stderr: File,
        env: Mapping[str, str] | None = None,
        umask: int | None = None,
    ) -> ForkedProcess:
        """Start `bridge ARGUMENTS`, or a module with its arguments after `-m`. umask: instead of that of the tests."""
        environment = dict(os.environ if env is None else env)
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": environment, "umask": umask}
        body = json.dumps(request).encode()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 -- a device
            given = [nothing if stdin == subprocess.DEVNULL else stdin, stdout]
            given.append(stdout if stderr == subprocess.STDOUT else stderr)
            streams = [each if isinstance(each, int) else each.fileno() for each in given]
            socket.send_fds(connection, [len(body).to_bytes(_HEADER, "big")], streams)
        connection.sendall(body)
        return ForkedProcess(["bridge", *arguments], connection)

    def command(self) -> Path:
        """Return a directory for PATH whose `bridge` starts forks, for the commands of a shell."""
        file = self._directory / "bin" / "bridge"
        if not file.exists():
            file.parent.mkdir()
            file.write_text(_COMMAND.format(python=sys.executable, address=self.address, header=_HEADER))
            file.chmod(0o755)
        return file.parent


_COMMAND = """\
#!{python} -SEs
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect("{address}")
body = json.dumps(dict(arguments=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))).encode()
socket.send_fds(connection, [len(body).to_bytes({header}, "big")], [0, 1, 2])
connection.sendall(body)
pid = int.from_bytes(connection.recv({header}, socket.MSG_WAITALL), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
for stream in (0, 1, 2):
    os.close(stream)
code = int(connection.recv(16))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""

_server: ForkServer | None = None


_shared: str | None = None
"""Address of the server of the main process."""


def share(address: str) -> None:
    """Use the server of the main process."""
    global _shared
    _shared = address


def fork_server() -> ForkServer:
    """Return the server for this test process; the first call starts one, unless that of the main process is shared."""
    global _server
    if _server is None:
        _server = ForkServer(_shared)
    return _server


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        received = connection.recv(size - len(found))
        if not received:
            raise EOFError("the fork server has ended")
        found += received
    return found


class _Server:
    """Server side: one connection per process. A connection that closes kills its process."""

    def __init__(self, listening: socket.socket, life: socket.socket) -> None:
        self._listening = listening
        self._life = life
        self._connections: dict[int, socket.socket] = {}
        self._is_ready = False
        self._selector = selectors.DefaultSelector()
        self._ended, self._wake = os.pipe()

    def serve(self) -> None:
        for descriptor in (self._ended, self._wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for each in (self._listening, self._life, self._ended):
            self._selector.register(each, selectors.EVENT_READ)
        self._life.sendall(b"r")  # ready
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._life:
                    for pid in self._connections:
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj == self._ended:
                    os.read(self._ended, 4096)
                    self._report_ended()
                elif key.fileobj is self._listening:
                    self._take(self._listening.accept()[0])
                elif key.data in self._connections:
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _report_ended(self) -> None:
        while self._connections:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._connections.pop(pid)
            with contextlib.suppress(KeyError):  # the other side has closed it
                self._selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()

    def _take(self, connection: socket.socket) -> None:
        """Fork one process."""
        header, streams, _, _ = socket.recv_fds(connection, _HEADER, _STREAMS)
        if not header:
            connection.close()
            return
        request = json.loads(_exactly(connection, int.from_bytes(header, "big")))
        if not self._is_ready:
            _preload()
            self._is_ready = True
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for each in (connection, self._listening, self._life, *self._connections.values()):
                each.close()
            for descriptor in (self._ended, self._wake):
                os.close(descriptor)
            os._exit(_run(request, streams))
        for descriptor in streams:
            os.close(descriptor)
        self._connections[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            connection.sendall(pid.to_bytes(_HEADER, "big"))


def _preload() -> None:
    gc.disable()
    for module in pkgutil.walk_packages(bridge.__path__, "bridge."):
        if module.name != "bridge.__main__":
            importlib.import_module(module.name)
    importlib.import_module("uvloop")  # the daemon imports it at its start
    _build(BaseModel)
    gc.freeze()
    gc.enable()


def _build(model: type[BaseModel]) -> None:
    """Build the validators of all models below one, which a process otherwise does at its first use of a model."""
    for each in model.__subclasses__():
        each.model_rebuild()
        _build(each)


def _run(request: dict[str, Any], streams: Sequence[int]) -> int:
    """Run the command in the forked process. Returns the exit code."""
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
    if (umask := request.get("umask")) is not None:
        os.umask(umask)
    arguments = request["arguments"]
    sys.argv = ["bridge", *arguments]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    sys.path[0] = request["cwd"]
    added = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each not in sys.path]
    sys.path[1:1] = added
    code = 0
    try:
        if arguments[:1] == ["-m"]:
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            from bridge.cli import main

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
    _Server(*(socket.socket(fileno=int(each)) for each in sys.argv[1:])).serve()
