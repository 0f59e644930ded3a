"""A fuzz of the control socket and of the ops port: they answer or refuse, and go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.app.operations.operation import Operation
from bridge.app.operations.table import OPERATIONS
from bridge.app.page.pages import PAGES
from bridge.app.page.site import Site
from bridge.app.serve.control import routes
from bridge.config.model.access import OidcConfig, OidcLoginConfig
from bridge.config.model.bridge import HttpConfig
from bridge.config.source import Loaded, load
from bridge.core.states import DaemonState
from bridge.ops.access import Caller, Oidc, OpsAccess, TokenFile
from bridge.ops.api import EventStream
from bridge.ops.health import Readiness
from bridge.ops.metrics import Metrics
from bridge.ops.peers import PeerPort
from bridge.ops.sessions import random_keyring
from bridge.ops.web import Web
from tests.app.conftest import impatient
from tests.app.project import EngineThread, write_project
from tests.app.test_control import GIVEN, serving
from tests.kit.waiting import TIMEOUT

__all__ = ["impatient"]

TEXT = st.one_of(
    st.sampled_from([
        "", "a", "n", "greet", "orders", "@c@x", "@", "bridge:x", "*", "a\0b", "\ud800", "é\u202e", "\r\n",
        "default", "none", "FAILED", "COMPLETED,FAILED", "true", "nan", "1e400", "-1", "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00Z", "payload == 1", "[0].map(x, x)", "'" * 50,
        "9" * 5_000, "x" * 20_000,
    ]),
    st.text(max_size=12),
)  # fmt: skip
NUMBERS = (
    st.integers(-(2**70), 2**70) | st.integers(-2, 3) | st.floats() | st.sampled_from([10**400, 2**63, -(2**63) - 1])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=6,
)


def _parameters(operation: Operation[Any]) -> list[str]:
    return [*operation.parameters.model_fields, "unheard_of"]


REQUESTS = st.sampled_from(OPERATIONS).flatmap(
    lambda operation: st.tuples(
        st.just(operation),
        st.fixed_dictionaries({}, optional=dict.fromkeys(_parameters(operation), VALUES)),
        st.sampled_from([{}, GIVEN.get(operation.name, {})]),
    )
)
BYTES = st.one_of(
    st.binary(max_size=60),
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"\xff", b"get"]),
        st.sampled_from([
            b"/healthz", b"/metrics", b"/api/v1/instances", b"/%00", b"//", b"*", b"/" + b"a" * 9_000, b"/",
            b"/?\xff=\xfe",
            b"/login", b"/login?next=%0d%0aX:%20y", b"/login/oidc", b"/login/callback?code=c&state=s", b"/logout",
            b"/theme", b"/do/instances.purge", b"/do/%ff", b"/stream/live", b"/stream/tap?options=%7b",
            b"/peer",
            b"/instances/%00",
            b"/assets/..%2f..%2fsite.py",
        ]),
        st.lists(
            st.sampled_from([
                b"Host: localhost", b"Host: localhost:99999", b"Host: \xff", b"Host:", b"Content-Length: -1",
                b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x",
                b"Upgrade: websocket", b"Connection: upgrade", b"Expect: 100-continue", b"X: " + b"y" * 9_000, b": x",
                b"Content-Encoding: gzip", b"Content-Type: application/json", b"Range: bytes=0-9999999999",
                b"Content-Type: application/x-www-form-urlencoded", b"Content-Type: multipart/form-data; boundary=x",
                b"Content-Length: 100", b"Sec-Fetch-Site: same-origin", b"Origin: http://[", b"Origin: null",
                b"Cookie: __Host-bridge-session=A" + b"A" * 80, b"Cookie: __Host-bridge-login=\xff; bridge_theme=x;;=",
                b"Cookie: bridge_flash=/w==", b"Authorization: Bearer \xff", b"Last-Event-ID: 9" * 9,
                b"Idempotency-Key: k",
            ]),
            max_size=5,
        ),
        st.sampled_from([
            b"", b"{}", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"\0" * 100,
            b"token=x&next=//y&" + b"a=b&" * 21,
            b"token[]=%ff&token=%00&back=%0d%0a" + b"&" * 67,
        ]),
    ).map(lambda parts: b"%s %s HTTP/1.1\r\n%s\r\n\r\n%s" % (parts[0], parts[1], b"\r\n".join(parts[2]), parts[3])),
)  # fmt: skip


def _request(operation: Operation[Any], values: dict[str, Any], sound: dict[str, Any]) -> bytes:
    """Bytes on the wire: no client library would send all of these."""
    given_, path = dict(sound) | values, operation.path
    for name in list(given_):
        if f"{{{name}}}" in path:
            text = str(given_.pop(name)).encode("utf-8", "surrogatepass")
            path = path.replace(f"{{{name}}}", quote(text, safe="") or "%20")
    path, body = "/api/v1/" + path.replace("{", "").replace("}", ""), b""
    if operation.method == "GET":
        texts = {name: str(value).encode("utf-8", "surrogatepass") for name, value in given_.items()}
        path += "?" + urlencode(texts)
    else:
        body = json.dumps(given_).encode()
    head = f"{operation.method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _answer(socket: Path, sent: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(sent)
        async with asyncio.timeout(TIMEOUT):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split(b" ", 2)[1]), body


async def _control(loaded: Loaded, examples: int) -> None:
    async with serving(loaded) as channel:
        loop = asyncio.get_running_loop()

        def attempt(operation: Operation[Any], values: dict[str, Any], sound: dict[str, Any]) -> None:
            sent = _request(operation, values, sound)
            status, body = asyncio.run_coroutine_threadsafe(_answer(channel.path, sent), loop).result(TIMEOUT)
            assert status != 500, body
            if status != 200 and body.startswith(b"{"):  # else aiohttp refused a request that is no HTTP
                assert len(json.loads(body)["detail"]) < 2_010

        @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(REQUESTS)
        def attempts(request: tuple[Operation[Any], dict[str, Any], dict[str, Any]]) -> None:
            attempt(*request)

        await asyncio.to_thread(attempts)
        assert (await _answer(channel.path, _request(OPERATIONS[0], {}, {})))[0] != 500


async def _nothing(given: Mapping[str, Any], caller: Caller) -> AsyncGenerator[bytes, None]:
    yield b"{}"


async def _port(examples: int, loaded: Loaded, tokens: Path) -> None:
    """The port with its API and its pages, behind tokens and an identity provider."""
    metrics = Metrics(list, list, version="1", config="c")
    tokens.write_text("")
    login = OidcLoginConfig(client_id="bridge", url="https://bridge.example")
    oidc = OidcConfig(issuer="http://127.0.0.1:9", audience="bridge", login=login)
    found = routes(loaded, {})
    web = Web(
        HttpConfig(port=0, header_timeout="20ms", idle_timeout="20ms"),
        lambda: Readiness(DaemonState.RUNNING, ()),
        metrics.scrape,
        None,
        found,
        [EventStream("live", _nothing), EventStream("tap", _nothing)],
        OpsAccess(TokenFile(tokens), Oidc(oidc)),
        pages=Site(PAGES, found, lambda: loaded),
        peers=PeerPort(random_keyring(), "a/1", {}),
    )
    await web.start()
    loop = asyncio.get_running_loop()

    async def raw(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(TIMEOUT):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(BYTES)
    def attempts(sent: bytes) -> None:
        found = asyncio.run_coroutine_threadsafe(raw(sent), loop).result(TIMEOUT)
        # The identity provider is away
        assert not found.startswith(b"HTTP/1.1 5") or b"identity_provider_unavailable" in found, found
        for header in found.partition(b"\r\n\r\n")[0].split(b"\r\n"):
            assert not header.startswith(b"X:"), found

    try:
        await asyncio.to_thread(attempts)
        healthy = await raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert healthy.startswith(b"HTTP/1.1 200"), healthy
    finally:
        await web.stop()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """Of a project of its own: some of the requests purge everything."""
    project = write_project(tmp_path_factory.mktemp("project")).parent
    host = EngineThread(project)
    host.start()
    yield load([project / "bridge.yaml"], environ={})
    host.stop()


@pytest.mark.usefixtures("impatient")
async def test_the_control_socket(loaded: Loaded) -> None:
    await _control(loaded, 200)


async def test_the_ops_port(loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await _port(150, loaded, tmp_path / "tokens")
    # A caller cannot fill the log; a refused change has its line in the audit
    assert {record.name for record in caplog.records} <= {"bridge.audit"}


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("impatient")
async def test_both_for_long(loaded: Loaded, tmp_path: Path) -> None:
    await _control(loaded, 5_000)
    await _port(3_000, loaded, tmp_path / "tokens")
