"""Durable task engine in one SQLite file."""
