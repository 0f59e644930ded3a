"""Early messages: commands that wait on an engine for the start of their instance."""
