"""Loopback addresses for one server each: clients without a custom endpoint always use the same port."""

from __future__ import annotations

import errno
import random
import socket

AMQPS = 5671
"""Port of AMQP over TLS."""


def own_address() -> str:
    """Return a loopback address on which no process listens on that port now.

    Raises: OSError when only 127.0.0.1 exists.
    """
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, AMQPS))
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
            else:
                return address
