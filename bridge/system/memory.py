"""Settings of the process's memory: garbage collector and allocator."""

from __future__ import annotations

import ctypes
import gc
import sys

_M_MMAP_THRESHOLD = -3
"""Parameter of glibc's `mallopt`: size in bytes from which a block has a mapping of its own."""

_LARGE = 128 * 1024
"""Initial threshold of glibc."""

_M_TRIM_THRESHOLD = -1
"""Parameter of glibc's `mallopt`: free bytes at the end of the heap from which glibc returns them to the system."""

_KEPT = 16 * 1024 * 1024
"""Bytes that the heap keeps for the next messages. With 128 KiB a busy daemon spends a tenth of its time on returning
memory and getting it again."""


def tune_memory() -> None:
    """Make the garbage collector run less often, and return freed messages to the operating system."""
    _tune_gc()
    tune_allocator()


def _tune_gc() -> None:
    """Make the cyclic garbage collector run less often.

    A message makes a few hundred objects and no cycles. With the default thresholds the collector, which scans all live
    objects, takes up to a quarter of a busy daemon's time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def tune_allocator() -> None:
    """Fix the size from which glibc maps a block by itself, and the free memory that the heap keeps.

    glibc raises the threshold up to 32 MiB when such a block is freed. From then on large messages lie in the heap
    among small objects, and freed ones leave holes that the process keeps: a daemon had 180 MiB of them. Other C
    libraries have no such threshold.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        # glibc adapts this one only as long as the other was not set
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
