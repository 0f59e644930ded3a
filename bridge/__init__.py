"""Event-driven integration bridge: messages become calls on durable workflows, by rules in config files."""

__version__ = "0.1.0"
