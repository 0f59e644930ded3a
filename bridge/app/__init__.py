"""Puts the parts together, and holds the plain functions behind the commands."""
