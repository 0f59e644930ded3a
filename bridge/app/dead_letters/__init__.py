"""Dead letters as brokers hold them: read, grouped, checked and edited."""
