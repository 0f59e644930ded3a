"""Who may do what: shared access keys, bearer tokens, and the $cbs node that takes them."""
