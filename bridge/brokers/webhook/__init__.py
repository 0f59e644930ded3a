"""Webhooks: receivers of published events over HTTP."""

from bridge.brokers.webhook.broker import WebhookBroker

__all__ = ["WebhookBroker"]
