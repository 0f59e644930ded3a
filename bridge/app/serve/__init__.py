"""Processes that run until they are stopped: the daemon, and the server of an engine."""
