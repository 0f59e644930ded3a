"""Queues, topics, subscriptions: what happens to messages. No AMQP connections here."""
