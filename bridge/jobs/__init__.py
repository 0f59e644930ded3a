"""Jobs: bulk actions by a person, as durable orchestrations with one result for each item."""
