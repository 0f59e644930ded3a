"""Commands for instances: each takes effect once on the engine, or fails with a reason."""
