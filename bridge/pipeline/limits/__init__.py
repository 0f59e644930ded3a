"""Limits that make the deliveries of a source wait: of routes, values, engines and dead letters."""
