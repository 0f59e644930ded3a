"""Durable task engine in one SQLite file: a task hub with its writer, its servers and its workers' streams.

The documents call it the embedded engine; `bridge.engines.embedded` connects it with the bridge.

The engine knows nothing of the program around it, which gives it options and rules (`options.py`). Its rooms, each of
which imports only those after it: protocol, database, maintenance, hub, storage, model.
"""
