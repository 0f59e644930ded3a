"""Measurements: ratios between variants interleaved in one run."""
