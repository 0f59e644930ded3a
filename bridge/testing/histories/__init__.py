"""Replay of the histories of running instances through new workflow code. `bridge instances check` runs it."""
