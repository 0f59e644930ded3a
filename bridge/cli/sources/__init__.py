"""Commands of `bridge sources`."""
