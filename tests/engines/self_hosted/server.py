"""The server of durabletask-go in a process, with SQLite or with a PostgreSQL server of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.go_tools import ToolMissing, tool
from tests.kit.ports import free_port
from tests.kit.waiting import eventually_blocking

STORES = ("sqlite", "postgres")
"""Stores of the server."""

_MODULE = Path(__file__).parents[3] / "deploy/durabletask-server"


class Server:
    """Running server. `kill` and `start` are a crash and the next start with the same store."""

    def __init__(self, program: Path, store: list[str], log: Path) -> None:
        self._program = program
        self._store = store
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{free_port()}"

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        command = [str(self._program), "-listen", self.address, "-lock", "5s", *self._store]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        host, _, port = self.address.partition(":")

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        eventually_blocking(answers, lambda: f"the server: {self._log.read_text()[-500:]}")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextmanager
def server(store: str, directory: Path) -> Iterator[Server]:
    """Yield a running server with an empty store. Raises: ToolMissing."""
    program = tool(_MODULE, ".")
    with postgres() if store == "postgres" else _sqlite(directory) as options:
        made = Server(program, options, directory / "server.log")
        made.start()
        try:
            yield made
        finally:
            made.kill()


@contextmanager
def _sqlite(directory: Path) -> Iterator[list[str]]:
    yield ["-sqlite", str(directory / "hub.db")]


@contextmanager
def postgres() -> Iterator[list[str]]:
    """Run a PostgreSQL server on loopback, and yield the options of the server for it. Raises: ToolMissing."""
    # PostgreSQL does not run as root, and the directories of pytest are for root only
    with tempfile.TemporaryDirectory(prefix="bridge-postgres-") as directory:
        yield from _postgres(Path(directory))


def _postgres(data: Path) -> Iterator[list[str]]:
    port, binaries = free_port(), _binaries()
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(data, user, pwd.getpwnam(user).pw_gid)
    run = {"user": user, "cwd": "/", "check": True, "stdout": subprocess.DEVNULL, "env": {**os.environ, "LC_ALL": "C"}}
    subprocess.run([binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"], **run)  # type: ignore[call-overload]  # the options are of several types
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    start = [binaries / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start"]
    subprocess.run(start, **run)  # type: ignore[call-overload]  # the options are of several types
    try:
        yield ["-postgres", "127.0.0.1", "-postgres-port", str(port)]
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]  # the options are of several types


def _binaries() -> Path:
    """Directory of the programs of PostgreSQL. Raises: ToolMissing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    given = shutil.which("initdb")
    if not found and given is None:
        raise ToolMissing("there is no PostgreSQL; install it with `apt-get install postgresql`")
    return found[-1].parent if found else Path(str(given)).parent
