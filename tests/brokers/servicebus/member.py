"""Bridge process for tests with several consumer processes: `CONFIG EFFECTS`.

The process has one source on Service Bus; another process hosts its engine. It appends a line `KEY NUMBER PID` to
EFFECTS for every start that the engine took as new, in order.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.brokers.kafka.member import run

if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND), "bus"))
