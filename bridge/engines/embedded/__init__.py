"""The engine inside the daemon."""
