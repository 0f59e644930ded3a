"""Entities of the bridge, through which its daemons share state on an engine."""
