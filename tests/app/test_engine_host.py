"""Engine behind a port, and the token that it requires."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bridge.app.serve.engine_host import EngineHost, read_token
from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.sqlite_engine.protocol.server import Guard


def test_an_address_that_is_taken_leaves_nothing_running(tmp_path: Path) -> None:
    first = EngineHost("127.0.0.1:0", tmp_path / "first")
    first.start()
    before = set(threading.enumerate())
    with pytest.raises(EngineUnavailable, match="cannot be listened on"):
        EngineHost(first.address, tmp_path / "second").start()
    assert {thread.name for thread in threading.enumerate() if thread not in before} == set()
    again = EngineHost("127.0.0.1:0", tmp_path / "second")
    again.start()
    assert again.address != first.address
    for host in (again, first, first):
        host.stop()


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "ümlaut"])
def test_a_file_that_holds_no_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, "utf-8")
    with pytest.raises(EngineMisconfigured, match="token: must contain the token, one line"):
        read_token(tmp_path / "token")


def test_white_space_around_a_token_is_not_of_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  sesame \n")
    assert read_token(tmp_path / "token") == "sesame"


@pytest.mark.parametrize(
    ("listen", "guard", "expected"),
    [
        ("127.0.0.1:0", None, []),
        ("127.0.0.1:0", Guard(token="x" * 32), []),
        ("127.0.0.1:0", Guard(token="x" * 31), ["can be guessed"]),
        (
            "0.0.0.0:0",
            Guard(token="x", behind_tls_proxy=True),
            ["can be guessed", "bypasses the proxy can read the token"],
        ),
    ],
)
def test_what_is_insecure_about_a_port_is_told(
    tmp_path: Path, listen: str, guard: Guard | None, expected: list[str]
) -> None:
    dangers = EngineHost(listen, tmp_path, guard).dangers
    assert len(dangers) == len(expected)
    assert all(text in danger for text, danger in zip(expected, dangers, strict=True))
