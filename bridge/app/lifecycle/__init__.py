"""Lifecycle events: their data, the facts that lead to them, and their publication."""
