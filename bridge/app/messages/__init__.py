"""Messages from files and topics: read, written, published, or found by position."""
