"""Parts that several commands share: options, output, exit codes, connections to engines."""
