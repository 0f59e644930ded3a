"""Messages that wait on an engine: for their instance (parked), or for a person (quarantined). Pure."""
