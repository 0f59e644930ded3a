"""YAML documents with positions: reading, interpolation, merging, printing."""
