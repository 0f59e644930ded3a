"""Decisions of people that all daemons share through an engine, applied to this daemon."""
