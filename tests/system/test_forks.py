"""Forked processes keep no lock and no address of this process, and everything else."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.system import forks
from tests.kit.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]


@contextmanager
def forked(report: Callable[[], Any] = lambda: None) -> Iterator[Any]:
    """Forked process that lives until the end of the block. Yields its report."""
    output, theirs = os.pipe()
    life, ours = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os.write(theirs, json.dumps(report()).encode())
        os.close(theirs)
        os.read(life, 1)
        os._exit(0)
    os.close(theirs)
    os.close(life)
    try:
        with os.fdopen(output, "rb") as file:
            yield json.loads(file.read())
    finally:
        os.close(ours)
        os.waitpid(child, 0)


def paths(*descriptors: int) -> list[str]:
    return [str(Path(f"/proc/self/fd/{each}").readlink()) for each in descriptors]


def test_a_lock_is_free_although_a_forked_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = forks.open_lock(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    other = forks.open_lock(path, os.O_RDWR)
    with forked(lambda: paths(held)) as found:
        assert found == ["/dev/null"], "killed now, this process leaves the lock to nobody"
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        forks.close_lock(held)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    forks.close_lock(other)


def test_a_released_lock_is_free_although_a_copy_of_its_descriptor_is_open(tmp_path: Path) -> None:
    """A library that forks without Python has a copy, as has a process that is about to start a program."""
    path = tmp_path / "lock"
    held = forks.open_lock(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    copy = os.dup(held)
    forks.close_lock(held)
    other = forks.open_lock(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    forks.close_lock(other)
    os.close(copy)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_listener_and_its_connections_end_with_their_process(tmp_path: Path, family: socket.AddressFamily) -> None:
    place: Any = ("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket")
    other = socket.create_server(("127.0.0.1", 0))
    with socket.socket(family) as listener, socket.socket(family) as caller, other:
        listener.bind(place)
        listener.listen()
        address = listener.getsockname()
        forks.add_address(address)
        caller.connect(address)
        accepted, _ = listener.accept()
        with forked(lambda: paths(listener.fileno(), accepted.fileno(), other.fileno(), caller.fileno())) as found:
            assert found[:2] == ["/dev/null", "/dev/null"]
            assert all(each.startswith("socket:") for each in found[2:]), "sockets of others stay"
            accepted.close()
            assert caller.recv(1) == b"", "the caller notices the end of the connection"
            listener.close()
            with socket.socket(family) as next_, pytest.raises(ConnectionRefusedError):
                next_.connect(address)
        forks.remove_address(address)


def test_a_removed_address_is_anybodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for _ in range(2):
            forks.add_address(address)
        forks.remove_address(address)
        with forked(lambda: paths(listener.fileno())) as found:
            assert found == ["/dev/null"]
        forks.remove_address(address)
        with forked(lambda: paths(listener.fileno())) as found:
            assert found[0].startswith("socket:")


ALL_TAKEN = """
import os, resource, sys
from pathlib import Path
from bridge.system import forks

held = [forks.open_lock(Path(sys.argv[1], str(number)), os.O_RDWR | os.O_CREAT) for number in range(3)]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
if not os.fork():
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(*(os.readlink(f"/proc/self/fd/{each}") for each in held), flush=True)
    os._exit(0)
os.wait()
"""


def test_all_descriptors_may_be_taken(tmp_path: Path) -> None:
    # In an interpreter of its own: gRPC aborts a process that forks without a free descriptor
    command = [sys.executable, "-c", ALL_TAKEN, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert done.stdout.split() == ["/dev/null"] * 3, done.stderr
