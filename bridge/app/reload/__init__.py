"""Reload of the configuration: its changes, and how a running daemon takes them over."""
