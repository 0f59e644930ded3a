"""Rules of language for code and documents, as counts that may only fall: `python -m tests.language`."""
