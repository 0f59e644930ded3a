"""$management node of an entity: requests and their answers."""
