"""`python -m tests.kafka.server --port PORT`: the server as a process, for the tutorial on a machine without Docker."""

from __future__ import annotations

import argparse
import asyncio
import signal

from tests.kafka.server.server import Server


async def serve(port: int) -> None:
    """Serve on loopback until SIGINT or SIGTERM. Prints the address. port: 0 takes a free one."""
    server = Server()
    address = await server.start(port)
    print(f"a Kafka server for tutorials listens on {address}; its messages are in memory; Ctrl-C stops it", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kafka.server", description=__doc__)
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1 (9092)")
    port = parser.parse_args().port
    try:
        asyncio.run(serve(port))
    except OSError as error:
        raise SystemExit(f"port {port}: {error.strerror}; choose another one with --port") from None


if __name__ == "__main__":
    main()
