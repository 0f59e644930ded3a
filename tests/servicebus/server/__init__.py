"""An Azure Service Bus work-alike for tests: AMQP 1.0 over TCP or TLS, in memory, in one process.

async with ServiceBusServer(ServerConfig(queues=(QueueConfig("orders"),))) as server:
    client = ServiceBusClient.from_connection_string(server.connection_string)
"""

from tests.servicebus.server.access.keys import LISTEN, MANAGE, SEND, AccessKey
from tests.servicebus.server.config import QueueConfig, ServerConfig, SubscriptionConfig, TopicConfig
from tests.servicebus.server.counters import Counters, DeadLetter
from tests.servicebus.server.entities.filters import CorrelationFilter, FalseFilter, Rule, SqlFilter, TrueFilter
from tests.servicebus.server.entities.limits import PropertyLimits
from tests.servicebus.server.faults import Action, Fault, Faults, Step
from tests.servicebus.server.server import ServiceBusServer

__all__ = [
    "LISTEN",
    "MANAGE",
    "SEND",
    "AccessKey",
    "Action",
    "CorrelationFilter",
    "Counters",
    "DeadLetter",
    "FalseFilter",
    "Fault",
    "Faults",
    "PropertyLimits",
    "QueueConfig",
    "Rule",
    "ServerConfig",
    "ServiceBusServer",
    "SqlFilter",
    "Step",
    "SubscriptionConfig",
    "TopicConfig",
    "TrueFilter",
]
