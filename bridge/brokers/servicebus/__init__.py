"""Azure Service Bus, on azure-servicebus. Needs the extra `servicebus`."""

from bridge.brokers.servicebus.broker import ServiceBusBroker
from bridge.brokers.servicebus.receiver_options import ServiceBusReceiverOptions

__all__ = ["ServiceBusBroker", "ServiceBusReceiverOptions"]
