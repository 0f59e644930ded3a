"""Access control: shared access keys, bearer tokens, and the $cbs node that accepts them."""
