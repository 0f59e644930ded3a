"""Free ports of loopback, for a server that must know its port before it listens."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket

_PORTS = range(10_000, 32_000)
"""Ports that the system gives to no connection: it takes those of connections from 32768 on."""
_next = itertools.count(random.SystemRandom().randrange(len(_PORTS)))


def free_port() -> int:
    """Return a port on which nobody listens. A process gets each port once, and other processes begin elsewhere."""
    while True:
        port = _PORTS[next(_next) % len(_PORTS)]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
