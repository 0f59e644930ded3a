"""Operation: health, status, metrics, logs, traces, audit, and the ports that show them."""
