"""Pipeline of a source: from a received delivery to its settlement, in order for each key."""
