"""Directory of an embedded engine, and the sockets in it through which other processes reach the engine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.system import private

SOCKET = "engine.sock"
"""Socket of the sidecar protocol, by gRPC."""
WORKERS = "workers.sock"
"""Socket of the channel for workers of this machine. Only Linux has one."""
FILE = "engine.db"
PATH_LIMIT = 100
"""Longest socket path in bytes that every system takes (sun_path holds 104 to 108)."""


def make_private(directory: Path) -> None:
    """Create the directory with access for its owner only. Raises: EngineMisconfigured."""
    try:
        private.directory(directory)
    except OSError as error:
        raise EngineMisconfigured(
            f"{directory}: cannot set mode 0700 of the engine's directory ({error.strerror})"
        ) from error


class EngineSocket:
    """Path and gRPC target of a socket of the engine, whatever the length of its path.

    A path that is too long for a socket is reached through a descriptor of the directory (Linux only). Keep the object
    open while connections are made.
    """

    def __init__(self, directory: Path, socket: str = SOCKET) -> None:
        """Resolve the path.

        Raises: EngineUnavailable (the directory does not exist), EngineMisconfigured (the path is too long for this
        system).
        """
        path = str(directory.absolute() / socket)
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
            path = f"/proc/self/fd/{self._descriptor}/{socket}"
        self.path = path
        self.target = f"unix:{path}"

    def close(self) -> None:
        """Release the directory's descriptor. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
