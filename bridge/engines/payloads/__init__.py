"""Large payloads: stored beside an engine, with references in its messages."""
