"""AMQP 1.0 encoding: values, frames, performatives. No sockets and no Service Bus semantics."""
