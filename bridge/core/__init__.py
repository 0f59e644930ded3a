"""Messages, commands, errors and the decisions about them. Pure: no I/O, no clock, no threads."""
