"""One sample for each pattern of the Durable Task programming model.

Messages start them through config/patterns.yaml.
"""
