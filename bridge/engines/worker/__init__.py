"""Workers that run user code: registration, containment of its failures, and their stop."""
