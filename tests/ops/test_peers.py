"""Questions of daemons over real HTTP: keys, addressees, times, sizes, and addresses that are not asked."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web as aiohttp_web
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.serve.views.peers import LARGEST_ANSWER, Peer, PeerClient
from bridge.config.model.bridge import HttpConfig, PeersConfig
from bridge.core.states import DaemonState
from bridge.encryption import Key, Keyring
from bridge.engines.entities.reload_requests import url_of
from bridge.ops.health import Readiness
from bridge.ops.peers import LARGEST_QUESTION, PEER, QUESTION_SECONDS, PeerPort, PeerRefusal, Question
from bridge.ops.web import Web
from bridge.system.tls import TlsFiles, client_context
from tests.kafka.certificates import Authority

KEYS = [Key(name, os.urandom(32)) for name in ("a", "b")]
OWN = "here/1"


async def _metrics(*, openmetrics: bool) -> bytes:
    return b""


async def _status(given: Mapping[str, Any]) -> Any:
    return {"given": dict(given)}


async def _broken(given: Mapping[str, Any]) -> Any:
    raise RuntimeError("SECRET")


def served(http: HttpConfig | None = None, tls: TlsFiles | None = None, keys: list[Key] = KEYS[:1]) -> Web:
    port = PeerPort(Keyring(keys), OWN, {"status": _status, "broken": _broken})
    settings = http or HttpConfig(port=0)
    return Web(settings, lambda: Readiness(DaemonState.RUNNING, ()), _metrics, tls, peers=port)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = served()
    await web.start()
    yield web
    await web.stop()


def client(keys: list[Key] = KEYS, own: str = "http://127.0.0.1:1", tls: ssl.SSLContext | None = None) -> PeerClient:
    return PeerClient(Keyring(keys), lambda: own, tls or client_context(None, None, None), None)


async def post(web: Web, body: bytes, **headers: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.post(web.url + PEER, data=body, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_a_daemon_with_a_common_key_is_answered(web: Web) -> None:
    peer = Peer(OWN, web.url)
    assert await client(KEYS[:1]).ask(peer, "status", {"a": 1}) == {"given": {"a": 1}}
    for keys, why in ((KEYS[1:], "other keys"), (KEYS[::-1], "other keys")):
        with pytest.raises(PeerRefusal, match=why):
            await client(keys).ask(peer, "status", {})


@pytest.mark.parametrize(
    ("peer", "name", "why"),
    [
        ("there/1", "status", "daemon here/1 answers at this address now"),
        (OWN, "of a later version", "a version without this question"),
        (OWN, "broken", "it could not answer; see its log"),
    ],
)
async def test_a_refusal_has_its_cause(web: Web, peer: str, name: str, why: str) -> None:
    with pytest.raises(PeerRefusal, match=why):
        await client().ask(Peer(peer, web.url), name, {})


@pytest.mark.parametrize("shift", [-2 * QUESTION_SECONDS, 2 * QUESTION_SECONDS])
async def test_an_old_question_is_not_answered(web: Web, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    question, start = Question(OWN, "status", {}), time.time()
    with monkeypatch.context() as patch:
        patch.setattr("bridge.ops.peers.time.time", lambda: start + shift)
        body = question.seal(Keyring(KEYS))
    status, answer = await post(web, body)
    assert status == 200
    with pytest.raises(PeerRefusal, match="clocks"):
        question.read(Keyring(KEYS), answer)


async def test_only_a_sealed_question_is_answered(web: Web) -> None:
    body = Question(OWN, "status", {}).seal(Keyring(KEYS))
    cases = [b"", b"{}", body[:-1], body[:-1] + bytes([body[-1] ^ 1]), Keyring(KEYS).seal(b"{}", b"bridge.session")]
    for each in cases:
        assert (await post(web, each))[0] == 403
    assert (await post(web, b"x" * (LARGEST_QUESTION + 1)))[0] == 413
    assert (await post(web, body, Host="evil.example"))[0] == 421
    assert (await post(web, body))[0] == 200


async def test_a_question_is_answered_once(web: Web) -> None:
    question, ring = Question(OWN, "status", {}), Keyring(KEYS)
    body = question.seal(ring)
    assert question.read(ring, (await post(web, body))[1]) == {"given": {}}
    for _ in range(2):
        with pytest.raises(PeerRefusal, match="answered already"):
            question.read(ring, (await post(web, body))[1])
    again = Question(OWN, "status", {})
    assert again.read(ring, (await post(web, again.seal(ring)))[1]) == {"given": {}}


async def test_keys_change_without_a_gap() -> None:
    """Old, then old and new, new and old, and new: neighbours in this order answer each other."""
    old, new = KEYS
    steps = [[old], [old, new], [new, old], [new]]
    for keys, others in pairwise(steps):
        for asking, asked in ((keys, others), (others, keys)):
            web = served(keys=asked)
            await web.start()
            try:
                assert await client(asking).ask(Peer(OWN, web.url), "status", {}) == {"given": {}}
            finally:
                await web.stop()


async def test_an_answer_belongs_to_its_question(web: Web) -> None:
    first, second, ring = Question(OWN, "status", {}), Question(OWN, "status", {}), Keyring(KEYS)
    _, answer = await post(web, first.seal(ring))
    assert b"given" not in answer
    assert first.read(ring, answer) == {"given": {}}
    for question, body in ((second, answer), (first, answer[:-1]), (first, b'{"answer": {}}')):
        with pytest.raises(PeerRefusal, match="not sealed"):
            question.read(ring, body)


@pytest.mark.parametrize(
    ("url", "own", "asks"),
    [
        ("http://127.0.0.1:{port}", "http://127.0.0.1:1", True),
        ("http://localhost:{port}", "http://127.0.0.1:1", True),
        ("http://127.0.0.1:{port}", "http://192.0.2.9:1", False),
        ("http://[::ffff:127.0.0.1]:{port}", "http://192.0.2.9:1", False),
        ("http://localhost:{port}", "http://192.0.2.9:1", False),
        ("http://127.1:{port}", "http://192.0.2.9:1", False),
        ("http://0.0.0.0:{port}", "http://127.0.0.1:1", False),
        ("http://169.254.169.254:80", "http://127.0.0.1:1", False),
        ("http://[fe80::1]:80", "http://127.0.0.1:1", False),
    ],
)
async def test_addresses_that_are_not_asked(web: Web, url: str, own: str, asks: bool) -> None:
    asked = client(own=own).ask(Peer(OWN, url.format(port=web.port)), "status", {})
    if asks:
        assert await asked == {"given": {}}
    else:
        with pytest.raises((PeerRefusal, ConnectionError, aiohttp.InvalidURL), match=r"not asked|not a canonical"):
            await asked


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (aiohttp_web.Response(status=302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (aiohttp_web.Response(status=404), "HTTP 404"),
        (aiohttp_web.Response(body=b"x" * 100), "not sealed"),
        (aiohttp_web.Response(body=b"x" * (LARGEST_ANSWER + 1)), "longer than"),
    ],
    ids=["redirect", "stranger", "not sealed", "large"],
)
async def test_answers_of_something_else(answer: aiohttp_web.Response, why: str) -> None:
    paths = []

    async def handle(request: aiohttp_web.Request) -> aiohttp_web.Response:
        paths.append(request.path)
        await request.read()
        assert not {"Authorization", "Cookie"} & request.headers.keys()
        return answer

    app = aiohttp_web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = aiohttp_web.AppRunner(app)
    await runner.setup()
    await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(ValueError, match=why):
            await client().ask(Peer(OWN, f"http://127.0.0.1:{runner.addresses[0][1]}"), "status", {})
    finally:
        await runner.cleanup()
    assert paths == [PEER]


async def test_nothing_listens() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionError):
        await client().ask(Peer(OWN, f"http://127.0.0.1:{port}"), "status", {})


async def test_the_certificate_is_verified(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    web = served(tls=TlsFiles(authority.issue("daemon")))
    await web.start()
    try:
        peer = Peer(OWN, f"https://127.0.0.1:{web.port}")
        trusting = client(tls=client_context(authority.file, None, None))
        assert await trusting.ask(peer, "status", {}) == {"given": {}}
        for tls in (client_context(other.file, None, None), client_context(None, None, None)):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client(tls=tls).ask(peer, "status", {})
    finally:
        await web.stop()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"host": "0.0.0.0"}, None),
        ({"host": "127.0.0.1", "peers": PeersConfig(url="https://bridge.example")}, "https://bridge.example:{port}"),
        ({"peers": PeersConfig(url="http://[fd00::1]")}, "http://[fd00::1]:{port}"),
        ({"peers": PeersConfig(url="https://10.0.0.1:9000")}, "https://10.0.0.1:9000"),
        ({"host": "0.0.0.0", "peers": PeersConfig(url="10.0.0.1")}, "http://10.0.0.1:{port}"),
        ({"peers": PeersConfig(url="fd00::1")}, "http://[fd00::1]:{port}"),
        ({"peers": PeersConfig(url="pod-1.shop.svc")}, "http://pod-1.shop.svc:{port}"),
    ],
)
async def test_the_address_for_other_daemons(settings: dict[str, Any], url: str | None) -> None:
    web = served(HttpConfig(port=0, **settings))
    await web.start()
    try:
        assert web.peer_url == (None if url is None else url.format(port=web.port))
        assert web.peer_url is None or url_of({"url": web.peer_url}) == web.peer_url
        if url is not None:
            host = web.peer_url.partition("//")[2]
            assert (await post(web, b"", Host=host))[0] == 403, "the port is served under its own address"
    finally:
        await web.stop()


def test_an_address_beyond_loopback_is_that_of_the_port() -> None:
    """Without a start: the test needs no network."""
    assert served(HttpConfig(host="192.0.2.1", port=8099)).peer_url == "http://192.0.2.1:0"
    assert served(HttpConfig(host="fd00::1", port=8099)).peer_url == "http://[fd00::1]:0"
    without_keys = Web(HttpConfig(host="192.0.2.1"), lambda: Readiness(DaemonState.RUNNING, ()), _metrics)
    assert without_keys.peer_url is None


@given(st.text(max_size=80) | st.integers() | st.none() | st.builds("http://{}:80".format, st.text(max_size=20)))
def test_an_address_from_the_engine_is_safe_in_a_command(url: object) -> None:
    found = url_of({"url": url})
    assert found is None or (found == url and not set(found) & set(" ;|&$`'\"\\\n()<>*?!#~{}"))


@pytest.mark.parametrize(
    "url", [None, 1, ["http://a:1"], "http://a", "ftp://a:1", "http://a:1/x", "http://a@b:1", "http://a:1\n"]
)
def test_what_is_no_address(url: object) -> None:
    assert url_of({"url": url}) is None


def test_questions_are_json() -> None:
    sealed = Question(OWN, "status", {"message": "\ud800"}).seal(Keyring(KEYS))
    assert json.loads(Keyring(KEYS).open(sealed, b"bridge.peer.question"))["given"] == {"message": "\ud800"}
