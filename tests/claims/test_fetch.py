"""Fetch of payloads: bounds, redirects, digests, errors by kind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.claims import fetch
from bridge.claims.fetch import CheckedResolver, PayloadFetcher, RefusedAddress
from bridge.config.model.claims import ClaimCheckConfig
from bridge.core.errors import (
    BridgeError,
    ClaimDamaged,
    ClaimDenied,
    ClaimNotFound,
    ClaimStoreUnavailable,
    ClaimTooLarge,
)
from tests.claims.store import PayloadServer, serving
from tests.kafka.certificates import Authority
from tests.kit.waiting import TIMEOUT, eventually

ROOT = Path(__file__).parents[2]

LIMIT = 100_000


def fetcher(*allow: str, timeout: str = "30s", private: bool = False) -> PayloadFetcher:
    config = ClaimCheckConfig.model_validate({"allow": allow, "timeout": timeout, "private": private})
    return PayloadFetcher(config, LIMIT)


async def test_a_payload_with_its_digest() -> None:
    async with serving() as server:
        reference = server.holds("/in/1", b"x" * LIMIT)
        found = fetcher(f"{server.base}/in/")
        digest = hashlib.sha256(b"x" * LIMIT).hexdigest()
        assert await found.fetch(reference, digest.upper()) == b"x" * LIMIT
        for wrong in ("0" * 64, "short"):
            with pytest.raises(ClaimDamaged, match="digest"):
                await found.fetch(reference, wrong)


def redirects(server: PayloadServer, path: str, target: str, status: int = 302) -> str:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target})

    server.answers[path] = answer
    return f"{server.base}{path}"


async def test_redirects_stay_within_the_allowed_places() -> None:
    async with serving() as server, serving() as other:
        allowed = fetcher(f"{server.base}/in/")
        server.holds("/in/2", b"found")
        server.holds("/secret", b"secret")
        other.holds("/in/2", b"secret")
        assert await allowed.fetch(redirects(server, "/in/1", f"{server.base}/in/2")) == b"found"
        assert await allowed.fetch(redirects(server, "/in/1", "/in/2", 307)) == b"found"
        for target in (f"{server.base}/secret", "/secret", f"{other.base}/in/2", "//x/in/2", "file:///etc/passwd", ""):
            with pytest.raises(ClaimDenied):
                await allowed.fetch(redirects(server, "/in/1", target))
        with pytest.raises(ClaimDenied, match="more than 3 times"):
            await allowed.fetch(redirects(server, "/in/3", "/in/3"))
        assert other.asked == []
        assert "/secret" not in server.asked


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ClaimNotFound), (410, ClaimNotFound), (401, ClaimDenied), (403, ClaimDenied), (400, ClaimDenied),
        (204, ClaimDenied), (429, ClaimStoreUnavailable), (500, ClaimStoreUnavailable), (503, ClaimStoreUnavailable),
    ],
)  # fmt: skip
async def test_answers_by_kind(status: int, error: type[BridgeError]) -> None:
    async with serving() as server:
        reference = server.holds("/in/1", b"", status)
        with pytest.raises(error, match=str(status)):
            await fetcher(f"{server.base}/in/").fetch(reference)


async def test_size_and_time_are_bounded() -> None:
    async with serving() as server:
        allowed = fetcher(f"{server.base}/in/", timeout="200ms")
        for reference in (server.holds("/in/1", b"x" * (LIMIT + 1)), server.never_ends("/in/2")):
            with pytest.raises(ClaimTooLarge, match=r"more than the 100000 bytes that limits.max_payload allows"):
                await fetcher(f"{server.base}/in/").fetch(reference)
        with pytest.raises(ClaimStoreUnavailable, match=r"`claim_check\.timeout`"):
            await allowed.fetch(server.hangs("/in/3"))
        packed = server.holds("/in/4", b"x", encoding="gzip")
        with pytest.raises(ClaimDamaged, match="encoding"):
            await fetcher(f"{server.base}/in/").fetch(packed)
    with pytest.raises(ClaimStoreUnavailable, match="cannot be reached"):
        await allowed.fetch(f"{server.base}/in/1")


async def test_a_body_that_drips_or_breaks_off_is_an_outage() -> None:
    async with serving() as server:
        with pytest.raises(ClaimStoreUnavailable, match=r"`claim_check\.timeout`"):
            await fetcher(f"{server.base}/in/", timeout="200ms").fetch(server.drips("/in/1"))
        for stated, sent in ((100, 99), (99, 100)):
            with pytest.raises(ClaimStoreUnavailable, match="does not answer"):
                await fetcher(f"{server.base}/in/").fetch(server.breaks_off("/in/2", stated=stated, sent=b"x" * sent))


async def test_a_bomb_is_not_unpacked() -> None:
    """Neither with the name of its encoding nor without one."""
    packed = gzip.compress(b"\0" * 10_000_000)
    assert len(packed) < LIMIT
    async with serving() as server:
        for encoding in ("gzip", "deflate", "identity, gzip"):
            with pytest.raises(ClaimDamaged, match="encoding"):
                await fetcher(f"{server.base}/in/").fetch(server.holds("/in/1", packed, encoding=encoding))
        assert await fetcher(f"{server.base}/in/").fetch(server.holds("/in/2", packed)) == packed


FETCHES = """
import asyncio, sys
from bridge.claims.fetch import PayloadFetcher
from bridge.config.model.claims import ClaimCheckConfig

async def main():
    for reference in sys.argv[2:]:
        config = ClaimCheckConfig.model_validate({"allow": [sys.argv[1], reference.rpartition("/")[0] + "/"]})
        try:
            print(len(await PayloadFetcher(config, 100_000).fetch(reference)))
        except Exception as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


async def test_the_certificate_of_a_store_is_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")

    def context(name: str, **given: Any) -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.load_cert_chain(authority.issue(name, **given))
        return found

    async with (
        serving(context("good")) as server,
        serving(context("other", address="127.0.0.2")) as other,
        serving() as plain,
    ):
        plain.holds("/in/1", b"secret")
        references = [
            server.holds("/in/1", b"x" * 50_000),
            other.holds("/in/1", b"secret"),
            redirects(server, "/in/2", f"{plain.base}/in/1"),
            redirects(server, "/in/3", f"{other.base}/in/1"),
        ]
        with pytest.raises(ClaimStoreUnavailable, match="certificate"):
            await fetcher(f"{server.base}/in/").fetch(references[0])
        # In an interpreter of its own: the client loads the authorities of the system when it is imported
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FETCHES, f"{other.base}/in/", *references),
            env={"SSL_CERT_FILE": str(authority.file)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT)
        found = output.decode().splitlines()
        assert found[0] == "50000"
        assert "certificate" in found[1]
        assert found[2].startswith("ClaimDenied")
        assert "certificate" in found[3]
        assert plain.asked == other.asked == []


async def test_a_file_system_that_does_not_answer_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").write_bytes(b"found")
    reads, answers = [], threading.Event()

    def hanging(path: Path, limit: int) -> bytes:
        reads.append(path)
        answers.wait()
        return path.read_bytes()

    monkeypatch.setattr(fetch, "read_file", hanging)
    allowed = fetcher(f"file://{tmp_path}/", timeout="50ms")
    for _ in range(fetch.MOST_LATE):
        with pytest.raises(ClaimStoreUnavailable, match=r"the directory .* did not give .*`claim_check\.timeout`"):
            await allowed.fetch(f"file://{tmp_path}/1")
    for _ in range(3):
        with pytest.raises(ClaimStoreUnavailable, match="4 earlier reads of files have not ended"):
            await allowed.fetch(f"file://{tmp_path}/1")
    assert len(reads) == fetch.MOST_LATE
    monkeypatch.undo()
    answers.set()
    allowed = fetcher(f"file://{tmp_path}/")
    assert await allowed.fetch(f"file://{tmp_path}/1") == b"found"


async def test_a_file_system_that_answers_again_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").write_bytes(b"found")
    answers = threading.Event()
    monkeypatch.setattr(fetch, "read_file", lambda path, limit: answers.wait() and path.read_bytes())
    allowed = fetcher(f"file://{tmp_path}/", timeout="50ms")
    for _ in range(fetch.MOST_LATE):
        with pytest.raises(ClaimStoreUnavailable):
            await allowed.fetch(f"file://{tmp_path}/1")
    answers.set()

    async def is_read() -> bool:
        with contextlib.suppress(ClaimStoreUnavailable):
            return await allowed.fetch(f"file://{tmp_path}/1") == b"found"
        return False

    await eventually(is_read, "the threads have ended")


async def test_a_name_of_a_private_address_is_refused() -> None:
    resolver = CheckedResolver(private=True)
    with pytest.raises(RefusedAddress, match="resolves to an address of this machine"):
        await resolver.resolve("localhost", 443)
    host = socket.gethostname()
    with pytest.raises((ClaimDenied, ClaimStoreUnavailable), match=r"resolves to an address of this machine|reached"):
        await fetcher(f"https://{host}/in/").fetch(f"https://{host}/in/1")


async def test_files_within_their_directory(tmp_path: Path) -> None:
    directory = tmp_path / "in"
    (directory / "more").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (directory / "more" / "1").write_bytes(b"found")
    (directory / "link").symlink_to(tmp_path / "secret")
    (directory / "large").write_bytes(b"x" * (LIMIT + 1))
    allowed = fetcher(f"file://{directory}/")
    assert await allowed.fetch(f"file://{directory}/more/1") == b"found"
    with pytest.raises(ClaimDenied, match="link out of the places"):
        await allowed.fetch(f"file://{directory}/link")
    with pytest.raises(ClaimTooLarge):
        await allowed.fetch(f"file://{directory}/large")
    for name in ("absent", "more"):
        with pytest.raises(ClaimNotFound):
            await allowed.fetch(f"file://{directory}/{name}")


@pytest.mark.parametrize("name", ["1/below", "x" * 300, "circle"], ids=["below-a-file", "too-long", "circle-of-links"])
async def test_a_path_that_a_sender_chose_is_no_outage(tmp_path: Path, name: str) -> None:
    (tmp_path / "1").write_bytes(b"found")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ClaimNotFound, match="there is no file at the place of the reference"):
        await fetcher(f"file://{tmp_path}/").fetch(f"file://{tmp_path}/{name}")


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Let the permissions of files count, also where the tests run as root."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


async def test_a_directory_without_access_is_an_outage_and_a_file_is_not() -> None:
    with tempfile.TemporaryDirectory() as name:
        share = Path(name, "share")
        share.mkdir()
        (share / "1").write_bytes(b"found")
        Path(name).chmod(0o755)
        allowed, reference = fetcher(f"file://{share}/"), f"file://{share}/1"
        share.chmod(0)
        with without_privileges(), pytest.raises(ClaimStoreUnavailable, match="has no access to"):
            await allowed.fetch(reference)
        share.chmod(0o755)
        (share / "1").chmod(0)
        with without_privileges(), pytest.raises(ClaimDenied, match="cannot be read by the user of the daemon"):
            await allowed.fetch(reference)
        (share / "1").chmod(0o644)
        with without_privileges():
            assert await allowed.fetch(reference) == b"found"


async def test_a_directory_that_is_not_mounted_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(ClaimStoreUnavailable, match=r"the directory .* cannot be found"):
        await fetcher(f"file://{tmp_path}/share/").fetch(f"file://{tmp_path}/share/1")
