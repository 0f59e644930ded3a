"""A shop's day in half a minute: `python -m demo` runs the bridge on embedded parts and checks what became of it."""
