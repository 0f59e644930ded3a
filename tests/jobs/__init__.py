"""Jobs: state machines, work on a running engine, commands."""
