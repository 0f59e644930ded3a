"""Reload of a daemon's configuration: by command, signal or file watch, and for all daemons."""
