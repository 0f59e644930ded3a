"""States of dead letters, like open, replayed and dropped, on an engine."""
