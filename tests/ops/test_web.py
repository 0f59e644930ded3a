"""Ops port over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bridge.config.model.bridge import HttpConfig
from bridge.core.errors import ConfigError
from bridge.core.states import DaemonState, SourceState
from bridge.ops.health import Check, Readiness
from bridge.ops.web import Web
from bridge.system.tls import TlsFiles
from tests.kafka.certificates import Authority
from tests.kit.waiting import TIMEOUT

READY = Readiness(DaemonState.RUNNING, (Check("source", "orders", SourceState.IDLE),))
UNREADY = Readiness(DaemonState.RUNNING, (Check("source", "orders", SourceState.HELD, "engine default: away"),))


class Answers:
    readiness = READY
    text = b"bridge_info 1.0\n"

    def health(self) -> Readiness:
        return self.readiness

    async def metrics(self, *, openmetrics: bool) -> bytes:
        if not self.text:
            raise RuntimeError("SECRET")
        return self.text + b"# EOF\n" if openmetrics else self.text


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def web(answers: Answers) -> AsyncIterator[Web]:
    web = Web(
        HttpConfig(port=0, allowed_hosts=("Bridge.Internal", "fd00::7", "[fd00::8]")), answers.health, answers.metrics
    )
    await web.start()
    yield web
    await web.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_the_port_in_use_is_told(web: Web) -> None:
    assert web.port > 0
    assert web.url == f"http://127.0.0.1:{web.port}"


async def test_health_answers(web: Web, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{web.url}/healthz") as response:
        assert (response.status, await response.json()) == (200, {"alive": True})


async def test_readiness_answers_200_or_503(web: Web, http: aiohttp.ClientSession, answers: Answers) -> None:
    async with http.get(f"{web.url}/readyz") as response:
        assert (response.status, await response.json()) == (200, READY.as_dict())
    answers.readiness = UNREADY
    async with http.get(f"{web.url}/readyz") as response:
        assert response.status == 503
        assert (await response.json())["components"][0]["detail"] == "engine default: away"


async def test_metrics_answer_in_the_text_format(web: Web, http: aiohttp.ClientSession, answers: Answers) -> None:
    async with http.get(f"{web.url}/metrics") as response:
        assert await response.read() == answers.text
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_nothing_can_be_changed(web: Web, http: aiohttp.ClientSession, path: str, method: str) -> None:
    async with http.request(method, web.url + path, data=b"x" if method != "TRACE" else None) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_other_paths_are_not_found(web: Web, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/metrics/x", "/..%2fetc", "/healthz/"):
        async with http.get(web.url + path) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8099", 200),
        ("[::1]:8099", 200),
        ("bridge.internal:8099", 200),
        ("[fd00::7]:8099", 200),
        ("[fd00::8]:8099", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example:localhost", 421),
        ("[::1].evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("", 421),
    ],
)
async def test_only_known_host_names_are_served(web: Web, http: aiohttp.ClientSession, host: str, status: int) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        async with http.get(web.url + path, headers={"Host": host}) as response:
            assert response.status == status


async def test_every_answer_carries_security_headers(web: Web, http: aiohttp.ClientSession) -> None:
    for path, headers in (("/healthz", {}), ("/nothing", {}), ("/metrics", {"Host": "evil.example"})):
        async with http.get(web.url + path, headers=headers) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert response.headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_bug_is_answered_without_its_text(web: Web, http: aiohttp.ClientSession, answers: Answers) -> None:
    answers.text = b""
    async with http.get(f"{web.url}/metrics") as response:
        assert response.status == 500
        assert "SECRET" not in await response.text()
    async with http.get(f"{web.url}/healthz") as response:
        assert response.status == 200


async def test_a_taken_port_is_a_configuration_error(web: Web, answers: Answers) -> None:
    second = Web(HttpConfig(port=web.port), answers.health, answers.metrics)
    with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{web.port}: address already in use; choose"):
        await second.start()
    await second.stop()


async def test_stopping_leaves_nothing_behind(answers: Answers) -> None:
    before = asyncio.all_tasks()
    web = Web(HttpConfig(port=0), answers.health, answers.metrics)
    await web.stop()
    await web.start()
    async with aiohttp.ClientSession() as http, http.get(f"{web.url}/healthz") as response:
        assert response.status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")  # never finished
        await writer.drain()
        async with asyncio.timeout(TIMEOUT):
            await web.stop()
            await web.stop()
            assert await reader.read() == b""
        writer.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", web.port), 5):
        pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {task for task in asyncio.all_tasks() if task.done()}


async def test_ipv6_loopback(answers: Answers) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # this machine has no IPv6
    web = Web(HttpConfig(host="::1", port=0), answers.health, answers.metrics)
    await web.start()
    async with aiohttp.ClientSession() as http, http.get(f"{web.url}/readyz") as response:
        assert response.status == 200
        assert json.loads(await response.text())["ready"] is True
    await web.stop()


async def _status(url: str, authority: Authority, client: Path | None = None) -> int | None:
    """Return the status of /healthz over a new connection; None when TLS fails."""
    context = ssl.create_default_context(cafile=authority.file)
    if client is not None:
        context.load_cert_chain(client)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(f"{url}/healthz") as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError):
        return None


async def test_tls_and_a_renewed_certificate(answers: Answers, tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    file = tmp_path / "ops.pem"
    file.write_bytes(first.issue("ops").read_bytes())
    web = Web(HttpConfig(port=0), answers.health, answers.metrics, TlsFiles(file))
    await web.start()
    try:
        assert web.url.startswith("https://127.0.0.1:")
        assert await _status(web.url, first) == 200
        assert await _status(web.url, second) is None
        file.write_bytes(second.issue("ops").read_bytes())
        assert await _status(web.url, second) == 200
        assert await _status(web.url, first) is None
        file.write_bytes(b"broken")
        assert await _status(web.url, second) == 200
    finally:
        await web.stop()


async def test_certificates_of_clients(answers: Answers, tmp_path: Path) -> None:
    """The authority of client certificates is reloaded, too."""
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(ours.file.read_bytes())
    web = Web(HttpConfig(port=0), answers.health, answers.metrics, TlsFiles(ours.issue("ops"), None, trusted))
    await web.start()
    try:
        assert await _status(web.url, ours) is None
        assert await _status(web.url, ours, other.issue("scraper")) is None
        assert await _status(web.url, ours, ours.issue("scraper")) == 200
        trusted.write_bytes(other.file.read_bytes())
        assert await _status(web.url, ours, other.issue("scraper")) == 200
        assert await _status(web.url, ours, ours.issue("scraper")) is None
    finally:
        await web.stop()


async def test_a_certificate_that_cannot_be_used(answers: Answers, tmp_path: Path) -> None:
    web = Web(HttpConfig(port=0), answers.health, answers.metrics, TlsFiles(tmp_path / "missing.pem"))
    with pytest.raises(ConfigError, match=r"ops.http.tls: .*missing.pem: there is no such file"):
        await web.start()
