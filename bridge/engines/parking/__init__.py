"""Early messages and quarantine on an engine: the entities that keep messages, and the code that writes and reads them."""
