"""Durable Task protocol over gRPC and in process."""
