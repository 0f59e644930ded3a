"""Messages that wait on an engine: early ones for their instance, quarantined ones for a person. Pure."""
