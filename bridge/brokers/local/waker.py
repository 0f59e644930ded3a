"""Waker of consumers in all processes of the machine: each listens on a datagram socket in the directory of the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from bridge.system import forks, private

_log = logging.getLogger(__name__)

DIRECTORY = "wake"
LONGEST_PATH = 100
"""Longest path of a socket that every platform accepts, in bytes."""


class Wake(Enum):
    """Reason for waking a consumer: records were appended, or a group's members or partitions changed."""

    RECORDS = b"r"
    MEMBERS = b"m"


class Waker:
    """Wake-up endpoint of one process: notifies all others, and calls `woken` on the event loop when notified."""

    def __init__(self, directory: Path, woken: Callable[[Wake], None]) -> None:
        self._directory = directory / DIRECTORY
        self._woken = woken
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._sender: socket.socket | None = None

    @property
    def listening(self) -> bool:
        """True when others can wake this process; otherwise the process has to poll."""
        return self._listener is not None

    def start(self) -> None:
        """Prepare for notifying others. Raises: OSError."""
        self._loop = asyncio.get_running_loop()
        private.directory(self._directory)
        if hasattr(socket, "AF_UNIX"):
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sender.setblocking(False)

    def listen(self) -> None:
        """Listen for notifications from now on. Without such sockets, a warning reports that consumers poll."""
        if self._listener is not None or self._sender is None:
            return
        assert self._loop is not None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listener.setblocking(False)
            with _reachable(self._directory) as directory:
                listener.bind(f"{directory}/{self._name}")
                private.narrow([Path(directory, self._name)])
        except OSError as error:
            listener.close()
            _log.warning(
                "no wake-up socket in %s (%s): the daemon polls for new records instead", self._directory, error
            )
            return
        self._listener = listener
        forks.add_address(listener.getsockname())
        self._loop.add_reader(listener.fileno(), self._receive)

    def stop(self) -> None:
        """Stop listening and notifying. Idempotent."""
        if self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
            forks.remove_address(self._listener.getsockname())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                (self._directory / self._name).unlink()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def notify(self, wake: Wake) -> None:
        """Notify this process and all others. Callable from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: this process has no consumer left
                self._loop.call_soon_threadsafe(self._woken, wake)
        sender = self._sender
        if sender is None:
            return
        try:
            with _reachable(self._directory) as directory:
                for name in os.listdir(directory):  # noqa: PTH208 - names alone, on the way of every commit
                    if name != self._name:
                        self._send(sender, wake, directory, name)
        except OSError as error:
            _log.warning("cannot wake consumers through %s: %s", self._directory, error)

    def _send(self, sender: socket.socket, wake: Wake, directory: str, name: str) -> None:
        path = f"{directory}/{name}"
        try:
            sender.sendto(wake.value, path)
        except ConnectionRefusedError:
            # The process of this socket died without removing it
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - the path may lead through a descriptor
        except OSError as error:
            # The owner of a full buffer is woken already; all others poll within a second
            _log.debug("cannot wake %s: %s", name, error)

    def _receive(self) -> None:
        listener = self._listener
        if listener is None:
            return
        received: set[bytes] = set()
        try:
            while True:
                received.add(listener.recv(1))
        except BlockingIOError:
            pass
        for wake in Wake:
            if wake.value in received:
                self._woken(wake)


@contextlib.contextmanager
def _reachable(directory: Path) -> Iterator[str]:
    """Path to the directory that leaves room for the name of a socket."""
    path = str(directory)
    if len(os.fsencode(path)) + 32 <= LONGEST_PATH or sys.platform != "linux":
        yield path
        return
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
