"""Commands of `bridge instances`."""
