"""A bridge process: `CONFIG EFFECTS`. One source on Service Bus, an engine that another process hosts.

Appends a line `KEY NUMBER PID` to EFFECTS for every start that the engine took as new, in the order it took them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.brokers.kafka.member import run

if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND), "bus"))
