"""Engines: their interface, the client of the SDK, commands, and workers; the embedded engine and the scheduler."""
