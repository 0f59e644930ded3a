"""Commands of `bridge dlq`."""
