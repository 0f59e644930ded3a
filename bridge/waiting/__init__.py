"""Parts that early messages and quarantine share: totals, dead letters, and operations on a running engine."""
