"""Server as a process of its own: `python -m tests.servicebus.server --config FILE`.

The listening server prints one line, `ready {"port": ..., "control": ..., "connection_string": ...}`. The server ends
on SIGTERM, on SIGINT and at the end of its standard input; it never outlives the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

from tests.servicebus.server import emulator
from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.config import ROOT_KEY, ServerConfig
from tests.servicebus.server.control import Control
from tests.servicebus.server.entities.limits import PropertyLimits
from tests.servicebus.server.server import ServiceBusServer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.servicebus.server", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config", type=Path, required=True, help="queues and topics, as the official emulator has them"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", help=f"of {ROOT_KEY.name}")
    parser.add_argument("--certificate", type=Path, help="key and certificate in one file: speak TLS")
    parser.add_argument("--idle-timeout", type=float, help="seconds, announced to clients")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds to add to it")
    parser.add_argument("--clock-skew", type=float, default=0.0, help="seconds that the server's clock is ahead")
    parser.add_argument("--websockets", action="store_true", help="speak AMQP over WebSocket")
    parser.add_argument("--drop-locks", action="store_true", help="end the locks of a connection with it")
    parser.add_argument("--drop-locks-of-links", action="store_true", help="end the locks of a link with it")
    parser.add_argument("--max-renewed-locks", type=int, help="refuse more lock tokens in one request")
    parser.add_argument("--property-limits", action="store_true", help="refuse properties above 32 and 64 KiB")
    parser.add_argument("--stay", action="store_true", help="do not end with standard input")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser.parse_args()


def _entities(file: Path) -> tuple[Any, Any]:
    """Queues and topics of a file. Ends the program for one that cannot be read."""
    try:
        return emulator.read(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"is no configuration of the emulator: {type(error).__name__}: {error}"
    raise SystemExit(f"error: --config {file} {why}. Next: config/servicebus/emulator.json is an example")


async def _run(arguments: argparse.Namespace) -> None:
    queues, topics = _entities(arguments.config)
    server = ServiceBusServer(
        ServerConfig(
            queues,
            topics,
            host=arguments.host,
            port=arguments.port,
            keys=(AccessKey(ROOT_KEY.name, arguments.key or ROOT_KEY.key),),
            certificate=arguments.certificate,
            idle_timeout=arguments.idle_timeout,
            round_trip=arguments.round_trip,
            clock_skew=arguments.clock_skew,
            websockets=arguments.websockets,
            locks_end_with_connection=arguments.drop_locks,
            locks_end_with_link=arguments.drop_locks_of_links,
            max_renewed_locks=arguments.max_renewed_locks,
            property_limits=PropertyLimits() if arguments.property_limits else None,
        )
    )
    control, over = Control(server), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if not arguments.stay:
        loop.add_reader(0, lambda: None if os.read(0, 1024) else over.set())
    try:
        await server.start()
    except OSError as error:  # also of the certificate
        raise SystemExit(
            f"error: the server cannot start: {error}. Next: check --host, --port and --certificate"
        ) from None
    facts = {
        "port": server.port,
        "control": await control.start(),
        "connection_string": server.connection_string,
    }
    print(f"ready {json.dumps(facts)}", flush=True)
    await over.wait()
    await control.stop()
    await server.stop()


if __name__ == "__main__":
    options = _arguments()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(_run(options))
