"""AMQP 1.0 as bytes: values, frames, performatives. No sockets and no Service Bus here."""
