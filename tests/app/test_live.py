"""The live stream of a daemon over real HTTP: changes, places of readers, limits, 1,000 readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bridge.app.serve.views import live as live_module
from bridge.app.serve.views.live import MOST_CHANGES, LiveStream
from bridge.app.serve.views.tap import TAP, Taps
from bridge.config.model.access import AccessConfig
from bridge.config.model.bridge import HttpConfig
from bridge.config.source import Loaded, load
from bridge.core.states import DaemonState
from bridge.ops import api
from bridge.ops.access import OpsAccess, TokenFile, new_token, token_line
from bridge.ops.api import LIVE, EventStream
from bridge.ops.health import Readiness
from bridge.ops.web import Web
from bridge.pipeline.decisions import DecisionListeners
from tests.app.project import write_project
from tests.kit.waiting import TIMEOUT, eventually


async def _metrics(*, openmetrics: bool) -> bytes:
    return b""


class Status:
    """Status of a daemon that a test changes."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "time": 0,
            "sources": [{"name": "orders", "lag": 0, "seconds": 1}],
            "engines": [],
        }
        self.asked = 0

    async def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return json.loads(json.dumps(self.document))

    def lag(self, lag: int) -> None:
        self.document["sources"][0]["lag"] = lag


class Reader:
    """Reader of a stream: a plain connection, whose kernel buffers a test can leave full."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, path: str = f"/api/v1/{LIVE}", **headers: str) -> Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return cls(reader, writer)

    async def status(self) -> tuple[int, str]:
        """Status and headers of the answer."""
        async with asyncio.timeout(TIMEOUT):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        return int(head.split(" ", 2)[1]), head

    async def event(self) -> dict[str, str]:
        """Next event; empty at the end of the stream."""
        found: dict[str, str] = {}
        async with asyncio.timeout(TIMEOUT):
            while True:
                size = int(await self._reader.readline() or b"0", 16)
                chunk = (await self._reader.readexactly(size + 2))[:-2].decode()
                if not size:
                    return {}
                for line in chunk.split("\n"):
                    name, _, value = line.partition(": ")
                    if name:
                        found[name] = value
                if chunk.endswith("\n\n"):
                    return found

    async def named(self, name: str) -> dict[str, str]:
        """Next event with a name."""
        while (event := await self.event()).get("event") != name:
            assert event, "the stream has ended"
        return event

    async def body(self) -> bytes:
        """Body of an answer that is no stream."""
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.readuntil(b"}")

    async def end(self) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def served(
    status: Status, access: OpsAccess | None = None, loaded: Loaded | None = None, **settings: Any
) -> AsyncIterator[tuple[Web, DecisionListeners]]:
    decisions = DecisionListeners()

    def configuration() -> Loaded:
        assert loaded is not None
        return loaded

    taps = Taps(configuration, decisions)
    live = LiveStream(status, taps, tick=0.01, beat=0.05)
    http = HttpConfig(port=0, access=AccessConfig(rate=10_000, burst=100_000), **settings)
    streams = [EventStream(LIVE, live.events), EventStream(TAP, taps.events)]
    web = Web(http, lambda: Readiness(DaemonState.RUNNING, ()), _metrics, None, (), streams, access)
    await web.start()
    try:
        yield web, decisions
    finally:
        await web.stop()


async def test_a_reader_gets_the_status_then_its_changes() -> None:
    status = Status()
    async with served(status) as (web, _):
        reader = await Reader.open(web.port)
        assert (await reader.status())[0] == 200
        first = await reader.event()
        assert first["event"] == "state"
        assert json.loads(first["data"])["sources"][0]["lag"] == 0
        status.document["time"] = 7
        status.document["sources"][0]["seconds"] = 9
        assert (await reader.event())["event"] == "beat", "ages alone are no change"
        later = await Reader.open(web.port)
        await later.status()
        state = json.loads((await later.event())["data"])
        assert (state["time"], state["sources"][0]["seconds"]) == (7, 9), "the state has the present ages"
        later.close()
        status.lag(5)
        change = json.loads((await reader.named("change"))["data"])
        assert change == {"sources": [{"name": "orders", "lag": 5, "seconds": 9}]}
        reader.close()


async def test_a_reader_that_returns_gets_what_it_missed() -> None:
    status = Status()
    async with served(status) as (web, _):
        watching = await Reader.open(web.port)
        await watching.status()
        seen = (await watching.event())["id"]
        for lag in range(1, 4):
            status.lag(lag)
            await watching.named("change")
        back = await Reader.open(web.port, **{"Last-Event-ID": seen})
        await back.status()
        lags = [json.loads((await back.named("change"))["data"])["sources"][0]["lag"] for _ in range(3)]
        assert lags == [1, 2, 3]
        # Of another daemon, of the future, of too long ago, of nobody
        for lag in range(4, 6 + MOST_CHANGES):
            status.lag(lag)
            await watching.named("change")
        for id_ in ("00000000-1", seen.partition("-")[0] + "-99999", seen, "x", "", "-1", seen + "x", "é"):
            other = await Reader.open(web.port, **{"Last-Event-ID": id_})
            await other.status()
            assert (await other.event())["event"] == "state", id_
            other.close()
        back.close()
        watching.close()


async def test_nobody_watches_without_a_reader() -> None:
    status = Status()
    async with served(status) as (web, _):
        for _ in range(2):
            reader = await Reader.open(web.port)
            await reader.status()
            assert (await reader.event())["event"] == "state"
            reader.close()
            await eventually(lambda: not web._streams._running, "the end of the stream")
            asked = status.asked
            await asyncio.sleep(0)
            assert status.asked == asked
            status.lag(3)


async def test_a_large_part_is_left_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "LARGEST", 100)
    status = Status()
    status.document["engines"] = ["x" * 200]
    async with served(status) as (web, _):
        reader = await Reader.open(web.port)
        await reader.status()
        data = json.loads((await reader.event())["data"])
        assert data["engines"] is None
        assert data["sources"] is not None
        reader.close()


async def test_a_status_that_fails_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Status):
        async def __call__(self) -> dict[str, Any]:
            found = await super().__call__()
            if 1 < self.asked < 5:
                raise ValueError("broken")
            return found

    status = Broken()
    async with served(status) as (web, _):
        reader = await Reader.open(web.port)
        await reader.status()
        await reader.event()
        status.lag(1)
        await reader.named("change")
        reader.close()
    assert [record.message for record in caplog.records] == ["the status cannot be made"]


async def test_one_reader_more_is_refused_and_probes_still_answer() -> None:
    status = Status()
    async with served(status, max_connections=6, max_streams=100) as (web, _):
        readers = [await Reader.open(web.port) for _ in range(3)]
        for reader in readers:
            assert (await reader.status())[0] == 200
        late = await Reader.open(web.port)
        code, head = await late.status()
        assert code == 503
        assert "Retry-After: 10" in head
        assert web.refused["streams"] == 1
        probe = await Reader.open(web.port, "/healthz")
        assert (await probe.status())[0] == 200
        readers[0].close()
        await eventually(lambda: len(web._streams._running) == 2, "the end of the stream")
        again = await Reader.open(web.port)
        assert (await again.status())[0] == 200
        for reader in (*readers, late, probe, again):
            reader.close()


async def test_a_reader_that_takes_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "WRITE_SECONDS", 0.2)
    status = Status()
    async with served(status) as (web, _):
        slow = await Reader.open(web.port)
        slow._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket reads too
        quick = await Reader.open(web.port)
        await quick.status()
        await quick.event()
        running = web._streams._running
        assert len(running) == 2
        lag = 0
        while len(running) == 2:  # until the buffers of the socket are full
            lag += 1
            status.document["engines"] = ["x" * 250_000, lag]
            await quick.named("change")
        assert (await quick.event())["event"] in ("change", "beat")
        slow.close()
        quick.close()


async def test_a_stream_ends_with_the_rights_of_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ADMIT_SECONDS", 0.0)
    token, status = new_token(), Status()
    file = tmp_path / "tokens"
    file.write_text(token_line(token, "ada", "reader", payloads=False))
    async with served(status, OpsAccess(TokenFile(file))) as (web, _):
        refused = await Reader.open(web.port)
        assert (await refused.status())[0] == 401
        reader = await Reader.open(web.port, Authorization=f"Bearer {token}")
        await reader.status()
        await reader.event()
        file.write_text("# revoked\n")
        while await reader.event():
            pass
        refused.close()
        reader.close()


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
async def test_other_sites_open_no_stream(site: str, status: int) -> None:
    async with served(Status()) as (web, _):
        reader = await Reader.open(web.port, **{"Sec-Fetch-Site": site})
        assert (await reader.status())[0] == status
        reader.close()


async def test_messages_come_with_the_same_stream(tmp_path: Path) -> None:
    status = Status()
    loaded = load([write_project(tmp_path)], environ={})
    async with served(status, loaded=loaded) as (web, decisions):
        refused = await Reader.open(web.port, f"/api/v1/{LIVE}?tap=%7B%22payload%22%3Atrue%7D")
        assert (await refused.status())[0] == 403
        for path in (f"{LIVE}?source=orders", f"{TAP}?source=orders"):
            unknown = await Reader.open(web.port, f"/api/v1/{path}")
            assert (await unknown.status())[0] == 422
            unknown.close()
        reader = await Reader.open(web.port, f"/api/v1/{LIVE}?tap=%7B%7D")
        assert (await reader.status())[0] == 200
        assert json.loads((await reader.named("tap"))["data"])["counts"]["settled"] == 0
        assert (await reader.named("state"))["id"]
        assert len(decisions._listeners) == 1
        for each in (refused, reader):
            each.close()
        await eventually(lambda: not decisions._listeners, "the end of the tap")


@pytest.mark.timeout(120)
async def test_a_thousand_readers() -> None:
    """Each gets every change in order, while the port answers probes."""
    status, changes = Status(), 6
    async with served(status, max_connections=2_100, max_streams=1_000) as (web, _):
        readers = []
        for _ in range(20):
            readers += await asyncio.gather(*(Reader.open(web.port) for _ in range(50)))
            assert {code for code, _ in await asyncio.gather(*(each.status() for each in readers[-50:]))} == {200}
        await asyncio.gather(*(each.event() for each in readers))
        late = await Reader.open(web.port)
        assert (await late.status())[0] == 503

        async def lags(reader: Reader) -> list[int]:
            found: list[int] = []
            while not found or found[-1] < changes:
                found.append(json.loads((await reader.named("change"))["data"])["sources"][0]["lag"])
            return found

        reading = [asyncio.ensure_future(lags(each)) for each in readers]
        first = await Reader.open(web.port, "/healthz")
        for lag in range(1, changes + 1):
            asked = status.asked
            status.lag(lag)
            await eventually(lambda: status.asked > asked + 1, "a look at the status")  # noqa: B023
        assert (await first.status())[0] == 200
        assert all(found == list(range(1, changes + 1)) for found in await asyncio.gather(*reading))
        for each in (*readers, late, first):
            each.close()


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"sources": ["order"]}, "there is no source 'order'"),
        ({"routes": ["none-of-them"]}, "there is no route 'none-of-them'"),
    ],
)
async def test_a_tap_on_an_unknown_name_is_refused_with_the_known_ones(
    tmp_path: Path, options: dict[str, Any], detail: str
) -> None:
    loaded = load([write_project(tmp_path)], environ={})
    async with served(Status(), None, loaded) as (web, _):
        for path, name in ((f"/api/v1/{TAP}", "options"), (f"/api/v1/{LIVE}", "tap")):
            reader = await Reader.open(web.port, f"{path}?{name}={quote(json.dumps(options))}")
            assert (await reader.status())[0] == 404
            refusal = json.loads(await reader.body())
            assert refusal["reason"] == "unknown_name"
            assert refusal["detail"].startswith(detail)
            assert any(each in refusal["detail"] for each in ("known: ", "did you mean"))
            reader.close()
