"""Forks of this process by user code: the child keeps no lock and no address of the daemon, and does none of its work.

`os.fork` gives the child every descriptor of its parent, whatever their flags say: only a new program closes them. A
child that lives longer than a killed daemon would therefore keep the lock of the engine's file and the port, and no
daemon could take its place. In the child, each such descriptor becomes one of the null device. Its number stays taken,
and an object of the parent that the child closes later closes nothing else. A fork by a C library runs no such code.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridge.system import private

_guard = threading.RLock()
"""Held during a fork: a descriptor is never open without being listed."""
_locks: set[int] = set()
"""Descriptors of lock files."""
_addresses: dict[int | str, int] = {}
"""Numbers of listeners by TCP port, or by path of a Unix socket."""
_generation = 0
"""Number of forks between the first process and this one."""


def generation() -> int:
    """Number that differs in a process and in the processes that it forks."""
    return _generation


def open_lock(path: Path, flags: int) -> int:
    """Open a lock file, as `private.opened` does. `close_lock` closes it. Raises: OSError."""
    with _guard:
        descriptor = private.opened(path, flags)
        _locks.add(descriptor)
    return descriptor


def close_lock(descriptor: int) -> None:
    """Release the lock of a descriptor of `open_lock`, and close it."""
    with _guard:
        _locks.discard(descriptor)
        if sys.platform != "win32":
            # A process that starts a program has a copy for a while, and closing releases a lock with the last copy
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def add_address(address: Any) -> None:
    """List the address of a listening socket: as `getsockname` returns it, or a TCP port, or the path of a Unix socket.

    A child keeps neither the listening socket nor the connections that it has accepted.
    """
    key = _key(address)
    with _guard:
        _addresses[key] = _addresses.get(key, 0) + 1


def remove_address(address: Any) -> None:
    """Remove an address from the list, once."""
    key = _key(address)
    with _guard:
        number = _addresses.pop(key, 0) - 1
        if number > 0:
            _addresses[key] = number


def end_child(began: int, error: BaseException | None = None) -> None:
    """End this process if it is a child that user code has forked and not ended itself.

    The child has a copy of the queues and connections of its parent, and would do its work a second time.

    began: `generation()` before the user code ran. error: its exception; a SystemExit gives the exit code, which is 1
    otherwise.
    """
    if began == _generation:
        return
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        code = 1
        # Without the log and its streams: another thread of the parent may have held their locks during the fork
        with suppress(OSError):
            os.write(
                2,
                b"Process %d, which workflow code forked, returned from that code, and ends; end such a process with "
                b"os._exit\n" % os.getpid(),
            )
    os._exit(code)


def _key(address: Any) -> int | str:
    if isinstance(address, tuple):
        return int(address[1])
    return address if isinstance(address, int) else os.fsdecode(address)


def _in_child() -> None:
    global _generation
    _generation += 1
    try:
        taken = set(_locks)
        if _addresses:
            taken.update(each for each in _open_descriptors() if _local_key(each) in _addresses)
        _locks.clear()
        _addresses.clear()
        _replace(taken)
    finally:
        _guard.release()


def _open_descriptors() -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 -- names alone
    return []


def _local_key(descriptor: int) -> int | str | None:
    """Key of the local address of a socket; None for any other descriptor."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        found = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return _key(found.getsockname())
    except (OSError, TypeError, IndexError):
        return None
    finally:
        found.detach()


def _replace(descriptors: set[int]) -> None:
    """Make each descriptor one of the null device."""
    if not descriptors:
        return
    first = descriptors.pop()
    os.close(first)  # where all numbers are taken, the null device gets this one
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null != first:
        os.dup2(null, first, inheritable=False)
        os.close(null)
    for each in descriptors:
        os.dup2(first, each, inheritable=False)


if sys.platform != "win32":
    import fcntl

    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_in_child)
