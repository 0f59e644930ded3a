"""Defaults of the settings of a task hub, for the engine and for programs that offer these settings. Pure."""

from __future__ import annotations

MAX_REQUEST = 64 * 1024 * 1024
"""Bytes of the largest request, unless a setting allows larger ones."""

MAX_CONNECTIONS = 256
"""Connections to a port."""

CACHED_BYTES = 32 * 1024 * 1024
"""Bytes of instances in memory, and as many of entities."""

SESSIONS = 1000
"""Orchestrations that a worker keeps in memory between their turns."""

SESSION_BYTES = 64 * 1024 * 1024
"""Bytes of their histories."""

UNREAD_EVENTS = 10_000
"""Unread events of one instance."""

UNREAD_BYTES = 16 * 1024 * 1024
"""Bytes of unread events of one instance."""

WORKER_THREADS = 16
"""Threads for the activities of a worker."""

LOST_WORKERS = 5
"""Worker processes that may die while they run one work item and nothing else."""

INDEX_RECORDS = 100_000
"""Records of each kind in the index."""

PAYLOAD_AGE = 300.0
"""Seconds after which the file of a large payload is removed when nothing refers to it."""

LARGE_PAYLOAD = 64 * 1024
"""Bytes above which a payload lies in a file of its own, where such files are kept."""

MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes of the largest payload in a file of its own."""
