"""Static analysis of orchestrators."""
