"""Codes of problems, and their suppression."""
