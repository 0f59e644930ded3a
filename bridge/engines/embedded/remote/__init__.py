"""Worker of an engine in another process, over gRPC."""
