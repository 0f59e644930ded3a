"""Embedded engine: connects `bridge.sqlite_engine`, a durable task hub, with the bridge, in the daemon's process."""
