"""Check of a configuration: problems, suppressions, fixes, samples, cost."""
