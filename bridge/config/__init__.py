"""Configuration: files with positions, models of the settings, checks, and the reference."""
