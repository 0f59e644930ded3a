"""State of instances and entities, events and turns, without I/O."""
