"""Fetch of payloads: bounds, redirects, digests, errors by kind."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
from aiohttp import web

from bridge.claims.fetch import CheckedResolver, Fetcher, RefusedAddress
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

LIMIT = 100_000


def fetcher(*allow: str, timeout: str = "30s", private: bool = False) -> Fetcher:
    config = ClaimCheckConfig.model_validate({"allow": allow, "timeout": timeout, "private": private})
    return Fetcher(config, LIMIT)


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


async def test_a_directory_that_is_not_mounted_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(ClaimStoreUnavailable, match=r"the directory .* cannot be found"):
        await fetcher(f"file://{tmp_path}/share/").fetch(f"file://{tmp_path}/share/1")
