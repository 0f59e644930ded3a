"""Azurite, Microsoft's emulator of Azure Storage, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.waiting import eventually_blocking

HERE = Path(__file__).parent / "azurite"
CACHE = HERE.parents[2] / ".cache" / "azurite"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key that the emulator documents."""


def _installed() -> Path:
    """Return the directory with the emulator, installed once for each lock file."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = CACHE / "package-lock.json", HERE / "package-lock.json"
        if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes() or not (CACHE / "node_modules").exists():
            npm = shutil.which("npm")
            assert npm is not None, "this proof needs Node 20 or newer and npm"
            shutil.copy(HERE / "package.json", CACHE)
            shutil.copy(wanted, CACHE)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
            if done.returncode:
                stamp.unlink()
                pytest.fail(f"npm could not install the emulator:\n{done.stderr[-2000:]}")
    return CACHE


class Storage:
    """Running emulator. Its data lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = int(server.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    key = KEY

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{self._port}/{ACCOUNT};"
        )

    def start(self) -> None:
        script = _installed() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port), "--location", str(self._directory)]
        self._process = subprocess.Popen(
            ["node", str(script), *options, "--skipApiVersionCheck", "--silent", "--disableTelemetry"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NODE_NO_WARNINGS": "1"},
        )
        eventually_blocking(self._answers, "the emulator listens")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the emulator has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()  # a kill would lose its newest blobs
            process.wait()


@contextmanager
def running(directory: Path) -> Iterator[Storage]:
    """Yield a running emulator and stop it at the end."""
    storage = Storage(directory)
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()
