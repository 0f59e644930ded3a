"""Early messages and quarantine on an engine: entities that keep messages, and code that writes and reads them."""
