"""The directory of an embedded engine: who hosts it, and the socket that other processes reach it on."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc  # type: ignore[import-untyped]  # grpcio ships no type information

from bridge.engines.embedded.memory import REMOTE_WAITS
from bridge.errors import EngineMisconfigured, EngineUnavailable

SOCKET = "engine.sock"
LOCK = "engine.lock"
PATH_LIMIT = 100
"""Longest socket path in bytes that every system takes (sun_path holds 104 to 108)."""

THREADS = REMOTE_WAITS + 16
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Endpoint:
    """The host's side: holds the directory's lock and serves the servicer on its socket between open and close."""

    def __init__(self, directory: Path, servicer: Any) -> None:
        self._directory = directory
        self._servicer = servicer
        self._lock: int | None = None
        self._server: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._address: Address | None = None

    def open(self) -> None:
        """Raises: EngineMisconfigured when the directory cannot be used, EngineUnavailable when it is taken."""
        self._prepare()
        self._lock = self._take()
        try:
            # Only the lock's holder may get here, so a socket file is a dead host's.
            (self._directory / SOCKET).unlink(missing_ok=True)
            self._address = Address(self._directory)
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bridge-engine")
            server = grpc.server(
                self._threads,
                options=[*UNLIMITED, ("grpc.so_reuseport", 0)],
            )
            stubs.add_TaskHubSidecarServiceServicer_to_server(self._servicer, server)  # type: ignore[no-untyped-call]  # generated code
            server.add_insecure_port(self._address.target)
            server.start()
            self._server = server
        except (OSError, RuntimeError) as error:
            self.close()
            raise EngineMisconfigured(f"{self._directory / SOCKET}: cannot listen there ({error})") from error

    def close(self) -> None:
        """Idempotent. Calls in progress end with an error at their callers."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if self._address is not None:
            self._address.close()
            self._address = None
        if self._lock is not None:
            (self._directory / SOCKET).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._directory.stat()
            if stat.S_IMODE(found.st_mode) & 0o077:
                self._directory.chmod(0o700)
        except OSError as error:
            raise EngineMisconfigured(
                f"{self._directory}: the engine's directory cannot be made ours alone ({error.strerror})"
            ) from error

    def _take(self) -> int:
        path = self._directory / LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise EngineUnavailable(
                f"{self._directory}: the engine is already hosted by process {holder}; stop it, or give this one "
                "another `path` under `engines`"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        return descriptor


class Address:
    """How to name the socket to gRPC, however long its path is. Keep it open as long as connections are made."""

    def __init__(self, directory: Path) -> None:
        """Raises: EngineUnavailable when there is no such directory, EngineMisconfigured when it cannot be named."""
        path = str(directory.absolute() / SOCKET)
        self._descriptor: int | None = None
        if len(os.fsencode(path)) > PATH_LIMIT:
            if sys.platform != "linux":
                raise EngineMisconfigured(
                    f"{path}: longer than the {PATH_LIMIT} bytes of a socket's path; choose a shorter `path`"
                )
            try:
                self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise EngineUnavailable(
                    f"{directory}: {error.strerror}; no daemon runs here, start `bridge serve`"
                ) from error
            path = f"/proc/self/fd/{self._descriptor}/{SOCKET}"
        self.target = f"unix:{path}"

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
