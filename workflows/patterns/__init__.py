"""One sample for each pattern of the Durable Task programming model. config/patterns.yaml starts them by messages."""
