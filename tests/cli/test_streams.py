"""Standard streams of a command that are full, cut off or closed."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

BRIDGE = (sys.executable, "-m", "bridge")


def limited() -> None:
    """Let files grow to 4 KiB, as on a disk that becomes full while a command writes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.parametrize("arguments", [("check", "--schema"), ("--help",)], ids=" ".join)
def test_a_full_disk_is_one_line_and_no_success(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*BRIDGE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_cut_off_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with (tmp_path / "schema.json").open("w") as out:
        command = [*BRIDGE, "check", "--schema"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, preexec_fn=limited)
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: File too large\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_the_null_device(tmp_path: Path, closed: str) -> None:
    (tmp_path / "bridge.yaml").write_text(
        "engine: {type: embedded}\nbrokers: {local: {type: local}}\n"
        "sources: {orders: {broker: local, topics: [orders], codec: text, no_match: ignore}}\n"
        "routes: [{name: all, from: orders, ignore: {reason: tried}}]\n"
    )
    command = f'"$0" -m bridge route orders -c "$1" {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("publish", "orders", "--file", "/dev/zero"), 1),
        (("publish", "orders", "--data", "@/dev/zero"), 2),
        (("route", "orders", "--file", "/dev/zero"), 1),
        (("instances", "raise", "order-1", "paid", "--data", "@/dev/zero"), 2),
    ],
    ids=lambda each: " ".join(each[-2:]) if isinstance(each, tuple) else "",
)
def test_input_that_never_ends_is_bounded(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    (tmp_path / "bridge.yaml").write_text(
        "engine: {type: embedded}\nbrokers: {local: {type: local}}\n"
        "sources: {orders: {broker: local, topics: [orders], codec: text, no_match: ignore}}\n"
    )
    done = subprocess.run([*BRIDGE, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "larger than 256 MiB" in done.stderr) == (code, True), done.stderr
