"""Dead letters on their way back into a running daemon: queue on the engine, work of a job, work of the daemon."""
