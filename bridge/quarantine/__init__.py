"""Quarantine: failed messages that wait on an engine with the later messages of their ordering key."""
