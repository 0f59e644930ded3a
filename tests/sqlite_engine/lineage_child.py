"""Engine in a process, which starts instances and raises events until it is killed: arguments PATH ACKNOWLEDGED FIRST.

ACKNOWLEDGED: file with a line `NUMBER INSTANCE` for each acknowledged command. FIRST: number of the first message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions
from tests.kit.protocol_client import raise_event, start


def options(*, index: bool = True, **more: Any) -> DatabaseOptions:
    return DatabaseOptions(rules=BridgeRules(), index=index, **more)


@contextmanager
def opened(path: Path, given: DatabaseOptions | None = None) -> Iterator[Database]:
    database = Database(path, given or options())
    database.start()
    try:
        yield database
    finally:
        database.stop()


def message(number: int, data: Any = None) -> Any:
    """Payload of a command that a rule made of message `number`."""
    return wrap_payload(data, MessageOrigin(f"/shop m-{number}", "route", position=f"c/orders/0@{number}"))


def main(path: Path, acknowledged: Path, first: int) -> None:
    with acknowledged.open("a", buffering=1) as out, opened(path) as database:
        for number in range(first, first + 100_000, 2):
            start(database, "work", f"i-{number}", message(number))
            out.write(f"{number} i-{number}\n")
            raise_event(database, f"i-{number}", "event", message(number + 1))
            out.write(f"{number + 1} i-{number}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
