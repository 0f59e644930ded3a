"""Queues, topics and subscriptions: the lifecycle of messages. No AMQP connections."""
