"""Lineage of instances, and traces of messages."""
