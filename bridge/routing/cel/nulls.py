"""Reference counts of None values that the CEL library returns.

`cel-expr-python` 0.1 returns a null without counting the reference. Before Python 3.12, which made None immortal,
some thousands of nulls in results end the interpreter ("deallocating None"). This module counts each null of a result
again.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LOSES_NULLS = sys.version_info < (3, 12)
"""True if a reference to None can be lost."""


def recount(result: Any) -> None:
    """Count the references of all nulls in a result that the library has just returned."""
    if result is None:
        _count_again(1)
    elif result.__class__ is dict or result.__class__ is list:
        _count_again(_nulls(result))


def _nulls(container: Any) -> int:
    count = 0
    pending = [container]
    while pending:
        current = pending.pop()
        for member in current.values() if current.__class__ is dict else current:
            if member is None:
                count += 1
            elif member.__class__ is dict or member.__class__ is list:
                pending.append(member)
    return count


def _count_again(times: int) -> None:
    for _ in range(times):
        _increment(None)


_increment = ctypes.pythonapi.Py_IncRef
_increment.argtypes = [ctypes.py_object]
_increment.restype = None
