"""A shop's day in half a minute: `python -m demo` runs the bridge with embedded parts and checks the results."""
