"""Functions and stack frames of users' code."""
