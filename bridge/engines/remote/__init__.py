"""Engines in other processes: channels, limits, requests and capabilities."""
