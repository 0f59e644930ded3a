"""Large payloads: values that lie in files beside an engine, and the references that stand for them in messages."""
