"""Azure Service Bus, on azure-servicebus. Needs the extra `servicebus`."""

from bridge.brokers.servicebus.broker import ServiceBusBroker as ServiceBusBroker
