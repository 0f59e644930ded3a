"""Claim checks: messages that carry a reference to their payload, which lies elsewhere."""
