"""End of the channel between the daemon and a worker process: frames over a stream socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue

from bridge.engines.embedded.processes.framing import FrameReader, Item, frame, pieces

READ_SIZE = 256 * 1024
"""Bytes of one read."""

BUFFER_SIZE = 4 * 1024 * 1024
"""Bytes that the system is asked to buffer in each direction. It may grant less."""


class Channel:
    """End of the channel. One thread receives; any thread sends."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_SIZE)
        self._reader = FrameReader()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._lock = threading.Lock()
        self._late: SimpleQueue[bytes | None] | None = None
        """Bytes that the socket did not take at once, for the thread that waits for it. None while there are none."""

    def send(self, items: Iterable[Item]) -> None:
        """Send a frame without waiting for the peer. A peer that has gone gets nothing, and no error is raised."""
        data = frame(items)
        with self._lock:
            if self._late is None:
                try:
                    sent = self._socket.send(data, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return
                if sent == len(data):
                    return
                data = data[sent:]
                self._late = SimpleQueue()
                threading.Thread(target=self._send_late, args=(self._late,), name="channel-send", daemon=True).start()
            self._late.put(data)

    def _send_late(self, late: SimpleQueue[bytes | None]) -> None:
        """Send what waits for the socket, and end when nothing does."""
        while True:
            with self._lock:
                if late.empty():
                    self._late = None
                    return
            data = late.get()
            if data is None:
                return
            with suppress(OSError):
                self._socket.sendall(data)

    def send_all(self, items: Iterable[Item]) -> None:
        """Send a frame, and wait until the socket has taken it. For one sending thread. Raises: OSError."""
        for part in pieces(items):
            self._socket.sendall(part)

    def receive(self, on_large: Callable[[Item], object] | None = None) -> list[Item] | None:
        """Wait for items. None when the peer has closed the channel.

        on_large: called with the beginning of each large item, before the rest is read. Raises: BrokenFrame.
        """
        is_reported = on_large is None
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except OSError:
                return None
            if not size:
                return None
            items = self._reader.feed(self._buffer[:size])
            if items:
                return items
            if not is_reported and (item := self._reader.arriving) is not None:
                assert on_large is not None
                on_large(item)
                is_reported = True

    def end_sending(self) -> None:
        """Let the peer know that nothing follows. Idempotent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        """End the channel in both directions: the receiver and a waiting sender return. Idempotent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the socket. Idempotent."""
        self.shut_down()
        self._socket.close()
