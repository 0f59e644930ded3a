"""Reading of the log of one partition: batches, records, damage, and the next offset to fetch. Pure."""
