"""Replay, edit, drop and restore of dead letters, as jobs."""
