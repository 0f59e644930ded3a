"""Messages that wait on an engine: the entities that keep them, and those who write to and read from these."""
