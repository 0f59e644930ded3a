"""Instances: read, controlled, selected for jobs; causes of failures."""
