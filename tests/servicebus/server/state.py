"""State shared by all connections of a server."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.clock import Clock
from tests.servicebus.server.config import ServerConfig
from tests.servicebus.server.counters import Counters
from tests.servicebus.server.entities.namespace import Namespace
from tests.servicebus.server.faults import Faults


@dataclass(frozen=True)
class State:
    config: ServerConfig
    clock: Clock
    counters: Counters
    namespace: Namespace
    faults: Faults
    keys: list[AccessKey]
