"""Services of the operating system: clock, private files, TLS."""
