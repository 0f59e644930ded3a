"""Embedded engine alone in a process, for other processes: a replacement for the scheduler's emulator."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import structlog

from bridge.app.serve.readiness import write_ready
from bridge.config.insecure import port_dangers
from bridge.core.errors import EngineMisconfigured
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.ops import logging
from bridge.ops.logging import Level
from bridge.sqlite_engine.defaults import MAX_PAYLOAD, MAX_REQUEST
from bridge.sqlite_engine.options import DatabaseOptions, RetentionPolicy
from bridge.sqlite_engine.protocol.hubs import MAX_HUBS, HubsService, TaskHubs
from bridge.sqlite_engine.protocol.server import Guard, Server
from bridge.system.log_defaults import LEVEL
from bridge.system.memory import tune_allocator
from bridge.system.tls import TlsFiles

log = structlog.get_logger("bridge.engine")


MAX_TOKEN = 4096
"""Longest token in characters."""


class EngineHost:
    """Server of every task hub of a directory, on one port.

    listen: `host:port`; port 0 takes a free one.
    guard: authentication and limits of callers.
    retention: seconds that finished instances are kept; None: without limit.
    strict: apply the scheduler's limits.
    max_payload: bytes of the largest payload that clients and workers store here.
    """

    def __init__(
        self,
        listen: str,
        directory: Path,
        guard: Guard | None = None,
        retention: float | None = None,
        strict: bool = False,
        max_hubs: int = MAX_HUBS,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        """Create a host; open nothing. Raises: EngineMisconfigured when the port would be open to strangers."""
        self._host = listen.rpartition(":")[0]
        accepted = guard or Guard()
        options = DatabaseOptions(
            max_request=max(MAX_REQUEST, accepted.max_message),
            max_payload=max_payload,
            strict=strict,
            retention=RetentionPolicy(age=retention),
            rules=BridgeRules(),
        )
        self._hubs = TaskHubs(directory, options, max_hubs)
        self._server = Server(HubsService(self._hubs), [listen], guard)
        self.dangers = port_dangers(listen, accepted.token, encrypted=accepted.tls is not None)
        """Warnings about the port."""

    @property
    def address(self) -> str:
        """Address `host:port` in use, after `start`."""
        return f"{self._host}:{self._server.ports[0]}"

    def start(self) -> None:
        """Start serving the directory. Raises: EngineUnavailable, EngineMisconfigured; nothing runs then."""
        self._hubs.start()
        try:
            self._server.start()
        except BaseException:
            self._hubs.stop()
            raise

    def stop(self) -> None:
        """Stop serving. Idempotent."""
        # Pending waits end first, else the server could not stop
        self._hubs.stop()
        self._server.stop()


def read_token(path: Path) -> str:
    """Read the token in a file, without surrounding white space. Raises: EngineMisconfigured."""
    try:
        with path.open("rb") as stream:
            token = stream.read(MAX_TOKEN + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineMisconfigured(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise EngineMisconfigured(f"{path}: must contain the token, one line of printable ASCII")
    return token


def make_guard(
    *,
    token_file: Path | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    tls_client_ca: Path | None = None,
    behind_tls_proxy: bool = False,
    max_message: int | None = None,
    max_connections: int | None = None,
) -> Guard:
    """Create the guard of a port from command-line options. Raises: EngineMisconfigured when a token cannot be read."""
    guard = Guard(
        None if token_file is None else read_token(token_file),
        None if tls_certificate is None else TlsFiles(tls_certificate, tls_key, tls_client_ca),
        behind_tls_proxy,
    )
    return dataclasses.replace(
        guard,
        max_message=max_message or guard.max_message,
        max_connections=max_connections or guard.max_connections,
    )


def serve(
    listen: str,
    directory: Path,
    *,
    guard: Guard | None = None,
    retention: float | None = None,
    strict: bool = False,
    max_hubs: int | None = None,
    max_payload: int | None = None,
    ready_file: Path | None = None,
    log_levels: Mapping[str, Level] | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; return the exit code.

    A second SIGTERM or SIGINT ends the process at once.
    ready_file: written when the engine answers, with the process id and the address as JSON.
    log_levels: levels of the log by logger; `""` is the whole log.
    Raises: EngineUnavailable, EngineMisconfigured when the engine cannot be started.
    """
    levels = dict(log_levels or {})
    logging.configure(levels.pop("", LEVEL), levels=levels)
    tune_allocator()
    host = EngineHost(listen, directory, guard, retention, strict, max_hubs or MAX_HUBS, max_payload or MAX_PAYLOAD)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            os._exit(1)
        ended.set()

    def hang_up(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        host.start()
        for danger in host.dangers:
            log.warning(danger, action="insecure")
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
