"""Decisions of a task hub, all of them in the writer's thread.

Instances, entities and leases (`model/instance.py`, `model/entity.py`, `hub/dispatch.py`) are records of this room. Its
modules alone write their fields, inside a transaction; a record that is changed is reported to the transaction in the
same step. Every other object is written by its own methods only.

From the bottom up: `dispatch` gives work to workers; `working_set` holds the instances in memory, and the consequences
of a transaction; `entities`, `losses` and `work_items` change and read it; `hub` starts and ends instances. Operations
on the hub are `calls` of clients, `completions` of workers, `rewind`, `removal` and `recovery`. `writer` runs them.
"""
