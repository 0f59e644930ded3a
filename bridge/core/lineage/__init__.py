"""Records and shards of the lineage index."""
