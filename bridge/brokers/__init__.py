"""Brokers: their interface, and Kafka, Service Bus, the local log and webhooks behind it."""
