"""Decisions of a task hub: operations, dispatch of work, completions. All of it runs in the writer thread."""
