"""Embedded engine: a durable task hub in the daemon's process."""
