"""Control channel: the API on a Unix socket of this process, only for the process's user and root."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from bridge.config.model.bridge import ControlConfig
from bridge.ops.access import Caller
from bridge.ops.api import PREFIX, ApiRoute, EventStream, EventStreams, add_routes, problems
from bridge.ops.audit import Denied, user
from bridge.ops.connections import Connections
from bridge.ops.http_errors import ProblemProtocol
from bridge.system import private

DIRECTORY = "control"
"""Name of the directory of sockets, in the state directory."""
MOST_STREAMS = 32
"""Most streams of a control socket at a time."""


class Control:
    """Server of routes and streams on a socket in `directory`.

    admitted: user ids; None: root and this process's user.
    """

    def __init__(
        self,
        directory: Path,
        routes: Sequence[ApiRoute],
        max_body: int,
        admitted: frozenset[int] | None = None,
        bounds: ControlConfig | None = None,
        streams: Sequence[EventStream] = (),
    ) -> None:
        self.path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        self._admitted = frozenset((0, os.geteuid())) if admitted is None else admitted
        self._app = web.Application(middlewares=[problems], client_max_size=max_body)
        add_routes(self._app, routes, self._caller)
        self._streams = EventStreams(MOST_STREAMS)
        self._streams.add(self._app, PREFIX, streams, self._caller, self._caller)
        self._connections = Connections(self._app, bounds or ControlConfig(), ProblemProtocol)
        self._running = False

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused connections by cause."""
        return self._connections.refused

    async def start(self) -> None:
        """Listen. Remove the sockets of killed processes. Raises: OSError."""
        private.directory(self.path.parent)
        for left in self.path.parent.glob("*.sock"):
            if _is_dead(left):
                left.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            with near(self.path) as path:
                listener.bind(path)
            private.narrow([self.path])
            await self._connections.listen_on(listener)
        except BaseException:
            listener.close()
            self.path.unlink(missing_ok=True)
            raise
        self._running = True

    async def stop(self) -> None:
        """Close all connections and remove the socket. Idempotent."""
        if self._running:
            self._running = False
            self._streams.stop()
            await self._connections.stop()
            self.path.unlink(missing_ok=True)

    async def _caller(self, request: web.Request) -> Caller:
        uid = peer_uid(request)
        actor = user(uid, "socket")
        if uid not in self._admitted:
            raise Denied("only the user of the daemon and root may use its control channel", actor)
        return Caller(actor, "admin", True)


@contextmanager
def near(path: Path) -> Iterator[str]:
    """Path to a socket that is short enough for a socket address, wherever the socket is. Raises: OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def sockets(directory: Path) -> list[Path]:
    """Sockets of daemons, newest first. A directory of another user is ignored."""
    if sys.platform != "linux":
        return []
    try:
        place = os.lstat(directory)
        if not stat.S_ISDIR(place.st_mode) or os.geteuid() not in (0, place.st_uid):
            return []
        found = [(path.lstat().st_mtime, path) for path in directory.glob("*.sock")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def peer_uid(request: web.Request) -> int:
    """User id of the peer, from the kernel."""
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with near(path) as short:
                probe.connect(short)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
