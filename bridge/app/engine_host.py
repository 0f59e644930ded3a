"""The embedded engine alone in a process, for other processes: a stand-in for the scheduler's emulator."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import structlog

from bridge.app.readiness import write_ready
from bridge.engines.embedded.database import DatabaseOptions
from bridge.engines.embedded.hubs import HubsService, TaskHubs
from bridge.engines.embedded.retention import RetentionPolicy
from bridge.engines.embedded.server import Server
from bridge.errors import EngineMisconfigured
from bridge.ops import logging

log = structlog.get_logger("bridge.engine")


class EngineHost:
    """Every task hub of a directory behind one port.

    listen: `host:port`; port 0 takes a free one. token: clients must send it; needed when the host is not loopback.
    retention: seconds that finished instances are kept; None for ever. strict: the scheduler's limits hold.
    """

    def __init__(
        self,
        listen: str,
        directory: Path,
        token: str | None = None,
        retention: float | None = None,
        strict: bool = False,
    ) -> None:
        """Opens nothing. Raises: EngineMisconfigured when a token is needed."""
        self._host = listen.rpartition(":")[0]
        self._hubs = TaskHubs(directory, DatabaseOptions(strict=strict, retention=RetentionPolicy(age=retention)))
        self._server = Server(HubsService(self._hubs), [listen], token)

    @property
    def address(self) -> str:
        """`host:port` that is listened on, once started."""
        return f"{self._host}:{self._server.ports[0]}"

    def start(self) -> None:
        """Go on with what the directory holds. Raises: EngineUnavailable, EngineMisconfigured; then nothing runs."""
        self._hubs.start()
        try:
            self._server.start()
        except BaseException:
            self._hubs.stop()
            raise

    def stop(self) -> None:
        """Idempotent."""
        # Waits end first, so that the server can.
        self._hubs.stop()
        self._server.stop()


def read_token(path: Path) -> str:
    """The token that a file holds, without white space around it. Raises: EngineMisconfigured."""
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineMisconfigured(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise EngineMisconfigured(f"{path}: must hold one line of printable ASCII, the token")
    return token


def serve(
    listen: str,
    directory: Path,
    *,
    token_file: Path | None = None,
    retention: float | None = None,
    strict: bool = False,
    ready_file: Path | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once. Returns the exit code.

    ready_file: written once the engine answers, with the process id and the address as JSON.
    Raises: EngineUnavailable, EngineMisconfigured when it cannot be started.
    """
    logging.configure()
    host = EngineHost(listen, directory, None if token_file is None else read_token(token_file), retention, strict)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            os._exit(1)
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        host.start()
        try:
            log.info(f"task hubs in {directory}, listening on {host.address}", action="ready", address=host.address)
            if ready_file is not None:
                write_ready(ready_file, {"pid": os.getpid(), "address": host.address})
            ended.wait()
        finally:
            host.stop()
        log.info("stopped", action="stop")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
