"""Computation in pure Python, and a process that does nothing else: argument NUMBER of computations.

The process waits for a line, and prints the seconds that they took.
"""

from __future__ import annotations

import sys
import time


def burn(milliseconds: float) -> int:
    """Compute for this processor time."""
    end, steps = time.thread_time() + milliseconds / 1000, 0
    while time.thread_time() < end:
        steps += 1
    return steps


if __name__ == "__main__":
    sys.stdin.readline()
    began = time.perf_counter()
    for _ in range(int(sys.argv[1])):
        burn(10)
    print(time.perf_counter() - began)
