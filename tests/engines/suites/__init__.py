"""The embedded engine judged by the public test suites of the Durable Task SDKs, run from a checkout of theirs."""
