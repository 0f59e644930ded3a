"""Decisions of a task hub, all of them in the writer's thread.

Instances and entities (`model/instance.py`, `model/entity.py`) are records of this room: the storage builds them from
rows, and the modules of this room alone change their fields, always together with the transaction that writes the row
(`storage/counts.py` alone changes `counted`).
Every other object is changed by its own methods only.

From the bottom up: `ready`, `leases`, `tokenless`, `turn_order`, `balance` and `dispatch` give work to workers;
`working_set` holds the instances in memory, and the consequences of a transaction; `index` writes the lineage index,
`tracing` makes spans of what happens to instances, and `waiting_calls` holds the callers that wait for an instance;
`entities`, `losses` and `work_items` change and read the working set; `hub` starts and ends instances. Operations on
the hub are `calls` of clients, `completions` of workers, `rewind`, `removal`, `payload_sweep` and `recovery`. `writer`
runs them; `grouping` collects those of a server. `kept_spans` reads the spans that were not sent, in another thread.
"""
