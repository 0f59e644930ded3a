"""The API on the ops port: callers, roles, payloads, repetitions. Real HTTP, a real engine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import yarl
from openapi_spec_validator import validate

from bridge.app.connection import attached
from bridge.app.operations.openapi import document
from bridge.app.operations.operation import MOST_IDS, MOST_IDS_OF_QUERY, Operation
from bridge.app.operations.summaries import SUMMARIES
from bridge.app.operations.table import BY_NAME, OPERATIONS
from bridge.app.serve.control import largest_body, operate, routes
from bridge.app.state import trail
from bridge.config.model.access import AccessConfig
from bridge.config.model.bridge import HttpConfig
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand
from bridge.core.states import DaemonState
from bridge.ops.access import OpsAccess, Role, TokenFile, new_token, token_line
from bridge.ops.connections import LONGEST_LINE
from bridge.ops.health import Readiness
from bridge.ops.web import Web
from tests.app.test_control import GIVEN
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.usefixtures("host")
ROLES: tuple[Role, ...] = ("reader", "operator", "admin")
READ: Mapping[str, Mapping[str, Any]] = {
    "instances.show": {"instance_id": "n"},
    "instances.history": {"instance_id": "n"},
    "instances.cause": {"instance_id": "n"},
    "instances.timeline": {"instance_id": "n"},
    "instances.recording": {"instance_id": "n"},
    "instances.wait": {"instance_id": "n", "seconds": 0},
    "instances.match": {"action": "terminate", "prefix": "none-"},
    "entities.show": {"entity": "counter", "key": "k"},
    "sources.lag": {"source": "plain"},
    "sources.seek.plan": {"source": "plain", "to": "end"},
    "sources.seek.show": {"source": "plain"},
    "messages.show": {"message": "m"},
    "messages.trace": {"message": "m"},
    "messages.explain": {"message": "m"},
    "jobs.show": {"job": "none"},
    "jobs.items": {"job": "none"},
    "dlq.show": {"id": "plain/0@0"},
}
"""Parameters of operations that need some and change nothing."""
AREAS = sorted({operation.name.partition(".")[0] for operation in OPERATIONS})


async def _metrics(*, openmetrics: bool) -> bytes:
    return b""


@asynccontextmanager
async def served(
    loaded: Loaded, access: OpsAccess | None = None, settings: HttpConfig | None = None
) -> AsyncIterator[str]:
    """Address of the API of an engine."""
    async with attached(loaded) as engine:
        web = Web(
            settings or HttpConfig(port=0, access=AccessConfig(rate=10_000, burst=100_000)),
            lambda: Readiness(DaemonState.RUNNING, ()),
            _metrics,
            None,
            routes(loaded, {"default": engine}),
            (),
            access,
            largest_body(loaded),
        )
        await web.start()
        try:
            yield f"{web.url}/api/v1/"
        finally:
            await web.stop()


class Tokens:
    """File of tokens, one for each role with and without the right to payloads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens: dict[tuple[Role, bool], str] = {}
        lines = []
        for role in ROLES:
            for payloads in (False, True):
                token = self.tokens[role, payloads] = new_token()
                lines.append(token_line(token, f"{role}-{payloads}", role, payloads))
        path.write_text("# tokens\n\n" + "\n".join(lines))

    @property
    def access(self) -> OpsAccess:
        return OpsAccess(TokenFile(self.path))

    def header(self, role: Role, payloads: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role, payloads]}"}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def send(
    http: aiohttp.ClientSession,
    url: str,
    operation: Operation[Any],
    given: Mapping[str, Any],
    headers: Mapping[str, str],
) -> tuple[int, Any]:
    path, rest = operation.path, dict(given)
    for name in given:
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(str(rest.pop(name)), safe=""))
    form: dict[str, Any] = {"params": rest} if operation.method == "GET" else {"json": rest}
    async with http.request(operation.method, f"{url}{path}", headers=headers, **form) as response:
        return response.status, await response.json(content_type=None)


def lines(loaded: Loaded) -> Iterator[tuple[str, str, str, str]]:
    for line in trail(loaded, None).read():
        yield line["actor"], line["via"], line["action"], line["result"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("area", AREAS)
async def test_an_operation_admits_its_role_and_those_above(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, area: str
) -> None:
    async with served(loaded, tokens.access) as url:
        for operation in (each for each in OPERATIONS if each.name.partition(".")[0] == area):
            given = {**GIVEN, **READ}.get(operation.name, {})
            least = ROLES.index(operation.role)
            for role in ROLES[:least]:
                status, answer = await send(http, url, operation, given, tokens.header(role, True))
                assert (status, answer["reason"]) == (403, "denied"), operation.name
                if operation.changes:
                    assert [*lines(loaded)][-1] == (f"{role}-True", "token", operation.name, "denied")
            status, _ = await send(http, url, operation, given, {})
            assert status == 401, operation.name
            if operation.changes:
                assert [*lines(loaded)][-1] == ("anonymous", "http", operation.name, "denied")
            for role in (ROLES[least], "admin"):
                needs_payloads = operation.name in ("instances.recording", "dlq.export") or (
                    "where" in given and operation.name != "erase"
                )
                status, answer = await send(http, url, operation, given, tokens.header(role, needs_payloads))
                assert status not in (401, 403, 500), (operation.name, answer)


async def test_payloads_need_a_right_of_their_own(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    secret = "SECRET-4711"
    calls: list[tuple[str, Mapping[str, Any]]] = [
        ("instances.start", {"orchestration": "greet", "instance_id": "done", "input": secret}),
        ("instances.start", {"orchestration": "waits", "instance_id": "waits", "input": {"deep": [secret]}}),
        ("instances.raise", {"instance_id": "waits", "event": "other", "data": secret}),
        ("instances.start", {"orchestration": "quotes", "instance_id": "failed", "input": secret}),
        ("entities.signal", {"entity": "counter", "key": "k", "operation": "add", "input": 4711}),
    ]
    async with served(loaded, tokens.access) as url:
        await operate(loaded, None, calls)
        for id_ in ("done", "failed"):
            await eventually_finished(http, url, tokens, id_)
        ids = ("done", "waits", "failed")
        reads: list[tuple[str, Mapping[str, Any]]] = [
            ("instances.list", {}),
            *(("instances.show", {"instance_id": id_}) for id_ in ids),
            *((f"instances.{each}", {"instance_id": id_}) for each in ("history", "timeline") for id_ in ids),
            ("instances.cause", {"instance_id": "failed"}),
            ("instances.wait", {"instance_id": "done", "seconds": 5}),
            ("entities.list", {}),
            ("entities.show", {"entity": "counter", "key": "k"}),
            ("messages.trace", {"message": "done"}),
        ]
        seen = ""
        for name, given in reads:
            status, answer = await send(http, url, BY_NAME[name], given, tokens.header("admin"))
            assert status == 200, answer
            assert "4711" not in json.dumps(answer), (name, answer)
            status, answer = await send(http, url, BY_NAME[name], given, tokens.header("reader", True))
            assert status == 200
            seen += json.dumps(answer)
        assert seen.count(secret) >= 6
        for name, given in (
            ("instances.list", {"payloads": "true"}),
            ("instances.recording", {"instance_id": "done"}),
            ("entities.list", {"state": "true"}),
            ("dlq.show", {"id": "plain/0@0", "payload": "true"}),
            ("instances.match", {"action": "terminate", "where": f"input == '{secret}'", "prefix": "done"}),
        ):
            status, answer = await send(http, url, BY_NAME[name], given, tokens.header("admin"))
            assert (status, answer["reason"]) == (403, "denied"), name


async def eventually_finished(http: aiohttp.ClientSession, url: str, tokens: Tokens, id_: str) -> None:
    async def finished() -> bool:
        _, answer = await send(http, url, BY_NAME["instances.show"], {"instance_id": id_}, tokens.header("reader"))
        return bool(answer.get("status") in ("COMPLETED", "FAILED"))

    await eventually(finished, f"{id_} has finished")


async def test_without_access_this_machine_reads_without_payloads(loaded: Loaded, http: aiohttp.ClientSession) -> None:
    async with served(loaded) as url:
        assert (await send(http, url, BY_NAME["engines.list"], {}, {}))[0] == 200
        assert (await send(http, url, BY_NAME["instances.list"], {"payloads": "true"}, {}))[0] == 403
        assert (await send(http, url, BY_NAME["keys.rotate"], {}, {}))[0] == 403
        assert [*lines(loaded)][-1] == ("anonymous", "http", "keys.rotate", "denied")
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host"):
            status, answer = await send(http, url, BY_NAME["engines.list"], {}, {header: "127.0.0.1"})
            assert (status, answer["reason"]) == (401, "unauthenticated")
        status, _ = await send(http, url, BY_NAME["engines.list"], {}, {"Authorization": "Bearer x"})
        assert status == 401
        status, answer = await send(http, url, BY_NAME["engines.list"], {}, {"Host": "evil.example"})
        assert (status, answer["reason"]) == (421, "unknown_host")


async def test_tokens_end_and_change_with_their_file(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    engines = BY_NAME["engines.list"]
    ended, later = new_token(), new_token()
    now = datetime.now(UTC)
    lines_ = [
        token_line(ended, "ended", "reader", False, now - timedelta(seconds=1)),
        token_line(later, "later", "reader", False, now + timedelta(hours=1)),
    ]
    tokens.path.write_text("\n".join(lines_) + "\n")
    access = tokens.access
    async with served(loaded, access) as url:
        bearer = [{"Authorization": f"Bearer {each}"} for each in (ended, later, "x", "", "\N{SNOWMAN}")]
        assert [(await send(http, url, engines, {}, each))[0] for each in bearer] == [401, 200, 401, 401, 401]
        assert (await send(http, url, engines, {}, {"Authorization": f"Basic {later}"}))[0] == 401
        tokens.path.write_text("nonsense\n")
        assert (await send(http, url, engines, {}, bearer[1]))[0] == 200, "the tokens before stay in use"
        assert (await send(http, url, engines, {}, bearer[1]))[0] == 200
        [record] = [each for each in caplog.records if each.levelname == "ERROR"]
        assert "tokens before it stay in use" in record.getMessage()
        assert "line 1 is no line" in vars(record)["detail"]
        tokens.path.write_text("# none\n")
        assert (await send(http, url, engines, {}, bearer[1]))[0] == 401


async def test_a_repetition_has_one_effect(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    start = BY_NAME["instances.start"]
    key = {"Idempotency-Key": "k-1"} | tokens.header("operator")
    given = {"orchestration": "greet", "input": 1}
    async with served(loaded, tokens.access) as url:
        first, second = await asyncio.gather(*(send(http, url, start, given, key) for _ in range(2)))
        assert first == second
        assert first[0] == 200
        status, answer = await send(http, url, start, given | {"input": 2}, key)
        assert (status, answer["reason"]) == (422, "idempotency_key_reused")
        other = await send(http, url, start, given, {"Idempotency-Key": "k-1"} | tokens.header("admin"))
        assert other[1]["instance_id"] != first[1]["instance_id"], "the key of another caller is another key"
    async with served(loaded, tokens.access) as url:  # another process: only the engine knows
        third = await send(http, url, start, given, key)
        assert third[1] == first[1] | {"repeated": True}
        status, _ = await send(http, url, start, given, key | {"Idempotency-Key": "x" * 256})
        assert status == 422


async def test_a_caller_that_asks_too_often_waits(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    settings = HttpConfig(port=0, access=AccessConfig(rate=0.01, burst=3))
    async with served(loaded, tokens.access, settings) as url:
        for caller in ("reader", "operator"):
            statuses = []
            for _ in range(4):
                async with http.get(f"{url}engines", headers=tokens.header(caller)) as response:
                    statuses.append(response.status)
            assert statuses == [200, 200, 200, 429]
            assert int(response.headers["Retry-After"]) > 1


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "nothing", 404, "nothing is at this path; /api/v1/openapi.json lists all operations"),
        ("DELETE", "engines", 405, "DELETE is not allowed here; use GET"),
        ("GET", "instances:terminate", 405, "GET is not allowed here; use POST"),
    ],
)
async def test_a_request_for_no_operation_is_told_its_next_step(
    loaded: Loaded, http: aiohttp.ClientSession, method: str, path: str, status: int, text: str
) -> None:
    async with served(loaded) as url, asyncio.timeout(TIMEOUT), http.request(method, url + path) as response:
        assert (response.status, (await response.json(content_type=None))["detail"]) == (status, text)


@pytest.mark.parametrize(
    ("request_line", "status", "detail"),
    [
        (b"GET /api/v1/engines?x=" + b"x" * LONGEST_LINE + b" HTTP/1.1", 400, "name fewer ids or conditions"),
        (b"GET /api/v1/engines HTTP/9", 400, "not an HTTP request that can be read"),
        (b"GET /api/v1/engines HTTP/1.1\r\nExpect: miracles", 417, "miracles"),
        (b"GET /api/v1/nothing HTTP/1.1\r\nExpect: miracles", 417, "miracles"),
        (b"GET /api/v1/nothing HTTP/1.1", 404, "nothing is at this path"),
        (b"PUT /api/v1/engines HTTP/1.1", 405, "use GET"),
    ],
)  # fmt: skip
async def test_errors_of_the_server_itself_are_problems(
    loaded: Loaded, request_line: bytes, status: int, detail: str
) -> None:
    async with served(loaded) as url, asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", yarl.URL(url).port)
        writer.write(request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.split()[1] == str(status).encode(), head
    assert b"content-type: application/problem+json" in head.lower()
    assert detail in json.loads(body)["detail"]


async def test_head_answers_as_get_without_a_body(loaded: Loaded, http: aiohttp.ClientSession) -> None:
    async with served(loaded) as url, asyncio.timeout(TIMEOUT):
        for path, status in (("engines", 200), ("openapi.json", 200), ("jobs/none", 404), ("nothing", 404)):
            async with http.head(url + path) as head, http.get(url + path) as get:
                assert (head.status, get.status, await head.read()) == (status, status, b""), path
                assert head.content_type == get.content_type
                assert head.content_length == get.content_length
        async with http.head(f"{url}instances:terminate") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_a_job_is_accepted_with_its_place(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    operator = tokens.header("operator")
    async with served(loaded, tokens.access) as url, asyncio.timeout(TIMEOUT):
        start = {"orchestration": "waits", "instance_id": "job-1"}
        async with http.post(f"{url}instances", json=start, headers=operator) as response:
            assert response.status == 200, await response.text()
        async with http.post(f"{url}instances:suspend", json={"prefix": "job-"}, headers=operator) as response:
            assert response.status == 202, await response.text()
            job = (await response.json())["job"]
            assert response.headers["Location"] == f"/api/v1/jobs/{job}"
        every = {"all": True, "reason": "x"}
        async with http.post(f"{url}dead-letters:drop", json=every, headers=operator) as response:
            assert (response.status, await response.json(), "Location" in response.headers) == (200, [], False)


async def test_too_many_ids_are_refused_with_the_number_and_the_way(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession
) -> None:
    operator = tokens.header("operator")
    async with served(loaded, tokens.access) as url, asyncio.timeout(TIMEOUT):
        for name, most, words in (
            ("match", MOST_IDS_OF_QUERY, "1,000"), ("drop", MOST_IDS, "10,000"), ("replay", MOST_IDS, "10,000"),
        ):  # fmt: skip
            ids = [str(number) for number in range(most + 1)]
            if name == "match":
                asked = http.get(f"{url}dead-letters:match", params={"ids": ",".join(ids)}, headers=operator)
            else:
                asked = http.post(f"{url}dead-letters:{name}", json={"ids": ids, "reason": "x"}, headers=operator)
            async with asked as response:
                detail = (await response.json(content_type=None))["detail"]
                assert response.status == 422
                assert f"`ids` has more than {words} ids, the most of one request" in detail
                assert "select by a filter" in detail


@pytest.mark.parametrize(
    ("path", "status", "known"),
    [
        ("instances?outcomes=ended", 422, "compensation_failed"),
        ("instances:count?outcomes=ended", 422, "compensation_failed"),
        ("instances?statuses=DONE", 422, "COMPLETED"),
        ("sagas?states=ended", 422, "compensation_failed"),
        ("dead-letters?states=done", 422, "'replayed'"),
        ("dead-letters?sources=nowhere", 404, "plain"),
        ("dead-letter-groups?sources=nowhere", 404, "plain"),
        ("dead-letters:newest?sources=nowhere", 404, "plain"),
        ("dead-letters:match?sources=nowhere", 404, "plain"),
        ("sources/nowhere/lag", 404, "plain"),
        ("instances?engine=nowhere", 404, "default"),
        ("jobs?engine=nowhere", 404, "default"),
        ("entities?engine=nowhere", 404, "default"),
    ],
)
async def test_a_name_that_does_not_exist_is_refused_with_the_known_ones(
    loaded: Loaded, http: aiohttp.ClientSession, path: str, status: int, known: str
) -> None:
    async with served(loaded) as url, asyncio.timeout(TIMEOUT), http.get(url + path) as response:
        assert response.status == status
        assert known in (await response.json(content_type=None))["detail"]


async def test_a_thousand_ids_fit_into_a_request(loaded: Loaded, http: aiohttp.ClientSession) -> None:
    ids = [("ids", f"orders.dead-letters/{number % 16}@{1_000_000 + number}") for number in range(1_000)]
    async with (
        asyncio.timeout(TIMEOUT),
        served(loaded) as url,
        http.get(f"{url}dead-letters:match", params=ids) as response,
    ):
        assert response.status == 200, await response.text()


async def test_a_damaged_or_too_large_body_is_refused_and_fills_no_log(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    place, kind = "instances:terminate", {"Content-Type": "application/json"}
    damaged = kind | {"Content-Encoding": "gzip", "Connection": "close"}

    async def sent(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        async with asyncio.timeout(TIMEOUT), http.post(url + place, data=body, headers=headers) as response:
            assert response.content_type == "application/problem+json"
            return response.status, (await response.json(content_type=None))["detail"]

    async with served(loaded, tokens.access) as url:
        operator = tokens.header("operator")
        text = "the body is damaged: its length or its encoding is not as announced"
        assert await sent(url, b'{"reason": "no gzip"}', damaged | operator) == (400, text)
        assert (await sent(url, b'{"reason": "no gzip"}', damaged))[0] == 401
        most = largest_body(loaded)
        answer = await sent(url, b" " * (most + 1), kind | operator)
        assert answer == (413, f"the body is larger than {most:,} bytes; send a smaller one")
    assert [each for each in caplog.records if each.exc_info] == []


async def test_a_lone_surrogate_is_refused_outside_of_payloads(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession
) -> None:
    start = BY_NAME["instances.start"]
    async with served(loaded, tokens.access) as url:
        for given in (
            {"tags": {"a": "\ud800"}},
            {"tags": {"\udfff": "b"}},
            {"version": "\ud800"},
            {"reason": "\ud800"},
        ):
            status, answer = await send(
                http, url, start, {"orchestration": "greet", **given}, tokens.header("operator")
            )
            assert (status, answer["reason"]) == (422, "invalid_command")
        given = {"orchestration": "greet", "input": "\ud800"}
        assert (await send(http, url, start, given, tokens.header("operator")))[0] == 200


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("jobs.show", {"job": "j", "jbo": 1}, "jobs.show: there is no parameter `jbo` (known: engine, reason, job)"),
        ("jobs.show", {}, "jobs.show: the parameter `job` is missing"),
    ],
)
def test_parameters_that_are_unknown_or_missing_are_named(name: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        BY_NAME[name].parse(given)
    assert str(caught.value) == text


def test_the_description_is_valid_and_complete() -> None:
    found = document(OPERATIONS)
    validate(found)
    ids = {each["operationId"] for path in found["paths"].values() for each in path.values()}
    assert ids == {each.name for each in OPERATIONS} | {"status", "tap", "live"}


def test_every_operation_is_described_by_a_sentence_of_its_own() -> None:
    summaries = [method["summary"] for path in document(OPERATIONS)["paths"].values() for method in path.values()]
    assert [each for each in summaries if not re.fullmatch(r"[A-Z].* .*\.", each)] == []
    assert len(set(summaries)) == len(summaries)
    assert SUMMARIES.keys() == BY_NAME.keys()


async def test_the_description_is_served(loaded: Loaded, http: aiohttp.ClientSession) -> None:
    async with served(loaded) as url, asyncio.timeout(TIMEOUT), http.get(f"{url}openapi.json") as response:
        assert await response.json() == json.loads(json.dumps(document(OPERATIONS)))
