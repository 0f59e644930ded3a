"""Engine port against clients that hold connections without a call (slow loris)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.protocol import server as served
from bridge.sqlite_engine.protocol.server import Guard, Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from tests.kit.waiting import TIMEOUT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, PING = 4, 1, 6
ACK = 1
POST = b"\x83\x86\x44\x01\x2f\x41\x01\x78"
"""Headers: POST, http, path "/", authority "x"."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


OPENINGS = {
    "nothing": b"",
    "preface": PREFACE,
    "settings": PREFACE + frame(SETTINGS, 0, 0),
    "headers without an end": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, POST),
}


def live(connection: socket.socket) -> None:
    """Answer pings like an idle client, until the server closes the connection."""
    with contextlib.suppress(OSError):
        while header := connection.recv(9, socket.MSG_WAITALL):
            length = int.from_bytes(header[:3], "big")
            payload = connection.recv(length, socket.MSG_WAITALL) if length else b""
            if header[3] == PING and not header[4] & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS.keys())
def test_a_connection_without_a_call_ends(database: Database, monkeypatch: pytest.MonkeyPatch, opening: bytes) -> None:
    monkeypatch.setattr(served, "HANDSHAKE_SECONDS", 1)
    monkeypatch.setattr(served, "IDLE_SECONDS", 1)
    server = Server(AioSidecarService(database), ["127.0.0.1:0"], Guard(token="t" * 32))
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.ports[0])) as connection:
            connection.sendall(opening)
            living = threading.Thread(target=live, args=(connection,))
            living.start()
            living.join(TIMEOUT)
            ended = not living.is_alive()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            assert ended
    finally:
        server.stop()
