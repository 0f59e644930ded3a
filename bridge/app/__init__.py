"""Composition of the parts, and the functions behind the commands."""
