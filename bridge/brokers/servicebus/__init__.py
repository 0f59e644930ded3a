"""Azure Service Bus, on azure-servicebus. Needs the extra `servicebus`."""

from bridge.brokers.servicebus.broker import ServiceBusBroker
from bridge.brokers.servicebus.wishes import ServiceBusReceiverOptions

__all__ = ["ServiceBusBroker", "ServiceBusReceiverOptions"]
