"""Control channel of a daemon, over its real socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.app.composition import build_broker
from bridge.app.connection import attached
from bridge.app.operations.operation import Operation, perform
from bridge.app.operations.table import OPERATIONS
from bridge.app.serve.control import control, operate, routes
from bridge.app.state import trail
from bridge.cli.shared import exit_codes
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError, EngineTimeout, InstanceNotFound, InvalidCommand
from bridge.core.message import Message
from bridge.ops import api as served
from bridge.ops.control import Control, near
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.usefixtures("host")
CHANGING = [operation for operation in OPERATIONS if operation.changes]
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "instances.start": {"orchestration": "greet", "input": "SECRET"},
    "instances.raise": {"instance_id": "n", "event": "go", "data": "SECRET"},
    "instances.suspend": {"instance_id": "n"},
    "instances.resume": {"instance_id": "n"},
    "instances.terminate": {"instance_id": "n", "output": "SECRET"},
    "instances.restart": {"instance_id": "n"},
    "instances.rewind": {"instance_id": "n"},
    "instances.purge": {"instance_id": "n"},
    "instances.purge_by": {"statuses": ["FAILED"], "created_to": "2001-01-01T00:00:00Z"},
    "instances.terminate_by": {"orchestration": "none", "output": "SECRET", "where": "name == 'SECRET'"},
    "instances.raise_by": {"orchestration": "none", "event": "go", "data": "SECRET"},
    "instances.suspend_by": {"orchestration": "none"},
    "instances.resume_by": {"orchestration": "none"},
    "instances.rewind_by": {"prefix": "none-"},
    "instances.restart_by": {"until": "2001-01-01T00:00:00Z"},
    "early.release_by": {"prefix": "none-"},
    "early.drop_by": {"source": "none", "forget": True},
    "quarantine.release_by": {"causes": ["none"]},
    "quarantine.drop_by": {"until": "2001-01-01T00:00:00Z"},
    "jobs.pause": {"job": "none"},
    "jobs.resume": {"job": "none"},
    "jobs.abort": {"job": "none"},
    "entities.signal": {"entity": "counter", "key": "k", "operation": "add", "input": 1},
    "entities.clean": {},
    "early.release": {"instance_id": "n"},
    "early.drop": {"instance_id": "n"},
    "quarantine.release": {"source": "orders", "key": "k"},
    "quarantine.drop": {"source": "orders", "key": "k"},
    "sources.pause": {"source": "orders"},
    "sources.resume": {"source": "orders"},
    "sources.seek": {"source": "plain", "positions": {"plain/0": 0}},
    "sources.seek.cancel": {"source": "orders"},
    "limits.set": {"route": "greet", "rate": 1.0, "seconds": 60.0},
    "limits.clear": {"route": "greet"},
    "canary.abort": {"version": "0123456789ab"},
    "canary.resume": {"version": "0123456789ab"},
    "keys.rotate": {},
    "keys.retire": {"key": "none"},
    "reload": {},
    "reload.all": {},
    "dlq.drop": {"causes": ["none"]},
    "dlq.restore": {"causes": ["none"]},
    "dlq.replay": {"causes": ["none"]},
    "dlq.edit": {"id": "orders.dlq/0@0", "body": "U0VDUkVU"},
    "erase": {"where": "payload == 'SECRET'"},
}


@asynccontextmanager
async def serving(loaded: Loaded, admitted: frozenset[int] | None = None) -> AsyncIterator[Control]:
    async with attached(loaded) as engine:
        channel = control(loaded, routes(loaded, {"default": engine}, reload=lambda: _reloaded), admitted)
        await channel.start()
        try:
            yield channel
        finally:
            await channel.stop()


async def _reloaded(plan_only: bool, by: str) -> Mapping[str, Any]:
    return {"result": "unchanged"}


@asynccontextmanager
async def client(channel: Control) -> AsyncIterator[aiohttp.ClientSession]:
    with near(channel.path) as path:
        async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path)) as session:
            yield session


async def send(session: aiohttp.ClientSession, operation: Operation[Any], given: Mapping[str, Any]) -> tuple[int, Any]:
    body = dict(given)
    path = operation.path
    for name in list(body):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(str(body.pop(name)), safe=""))
    async with session.request(operation.method, f"/api/v1/{path}", json=body) as response:
        return response.status, json.loads(await response.read())


def kept(loaded: Loaded) -> list[dict[str, Any]]:
    return list(trail(loaded).read())


def test_every_changing_operation_is_tried_here() -> None:
    assert set(GIVEN) == {operation.name for operation in CHANGING}
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", CHANGING, ids=lambda operation: operation.name)
async def test_each_leaves_one_line(
    loaded: Loaded, operation: Operation[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(loaded) as channel, client(channel) as session:
        before = len(kept(loaded))
        status, _ = await send(session, operation, GIVEN[operation.name] | {"reason": "tried"})  # type: ignore[operator]  # wider than its annotation, on purpose
        [line] = kept(loaded)[before:]
        assert (line["action"], line["reason"], line["via"], line["uid"]) == (
            operation.name, "tried", "socket", os.getuid(),
        )  # fmt: skip
        assert line["result"] == ("done" if status == 200 else "failed")
        assert "SECRET" not in json.dumps(line)
        # Invalid parameters are an attempted change, too
        status, problem = await send(session, operation, GIVEN[operation.name] | {"nonsense": "SECRET"})  # type: ignore[operator]  # wider than its annotation, on purpose
        assert (status, problem["reason"]) == (422, "invalid_command")
        assert "SECRET" not in json.dumps(problem)
        [_, line] = kept(loaded)[before:]
        assert (line["result"], line["error"]) == ("failed", "invalid_command")
    assert len([each for each in caplog.records if each.name == "bridge.audit"]) == 2


async def test_another_user_is_refused_before_anything_is_read(loaded: Loaded) -> None:
    async with serving(loaded, frozenset((os.getuid() + 1,))) as channel, client(channel) as session:
        for operation in OPERATIONS:
            before = len(kept(loaded))
            status, problem = await send(session, operation, GIVEN.get(operation.name, {"instance_id": "n"}))
            assert (status, problem["reason"]) == (403, "denied"), operation.name
            new = kept(loaded)[before:]
            assert [(line["action"], line["result"]) for line in new] == (
                [(operation.name, "denied")] if operation.changes else []
            )


async def test_the_socket_is_ours_alone_and_goes_with_the_daemon(loaded: Loaded) -> None:
    before = os.umask(0)
    try:
        async with serving(loaded) as channel:
            assert stat.S_IMODE(channel.path.lstat().st_mode) == 0o600
            assert stat.S_IMODE(channel.path.parent.stat().st_mode) == 0o700
        assert not channel.path.exists()
    finally:
        os.umask(before)


async def test_what_a_killed_daemon_left_is_removed_and_passed_over(loaded: Loaded) -> None:
    async with serving(loaded) as channel:
        directory = channel.path.parent
    left = directory / "1-dead.sock"
    with socket.socket(socket.AF_UNIX) as dead, near(left) as path:
        dead.bind(path)
        dead.listen()
    assert await operate(loaded, None, [("entities.clean", {})])
    assert kept(loaded)[-1]["via"] == "cli"
    async with serving(loaded):
        assert not left.exists()
        assert await operate(loaded, None, [("entities.clean", {})])
        assert kept(loaded)[-1]["via"] == "socket"


async def test_a_daemon_with_another_engine_is_not_asked(loaded: Loaded, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    from bridge.config.source import load

    other.write_text(
        f"engine: {{type: embedded, path: {tmp_path}/engine}}\nbrokers: {{local: {{type: local}}}}\n"
        f"ops: {{state_dir: {loaded.base}/.bridge}}\n"
    )
    foreign = load([other], environ={})
    channel = control(foreign, [])
    await channel.start()
    try:
        assert await operate(loaded, None, [("entities.clean", {})])
        assert kept(loaded)[-1]["via"] == "cli"
    finally:
        await channel.stop()


async def test_a_daemon_that_does_not_answer_is_passed_over(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.serve.control.FIND_SECONDS", 0.2)
    directory = loaded.base / ".bridge" / "control"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    frozen = directory / "2-frozen.sock"
    with socket.socket(socket.AF_UNIX) as listener, near(frozen) as path:
        listener.bind(path)
        listener.listen()
        assert await operate(loaded, None, [("entities.clean", {})])
    assert kept(loaded)[-1]["via"] == "cli"
    frozen.unlink()


async def test_a_link_in_the_place_of_the_sockets_is_not_followed(loaded: Loaded, tmp_path: Path) -> None:
    async with serving(loaded) as channel:
        place = channel.path.parent
        place.rename(tmp_path / "control")
        place.symlink_to(tmp_path / "control")
        try:
            assert await operate(loaded, None, [("entities.clean", {})])
            assert kept(loaded)[-1]["via"] == "cli"
            with pytest.raises(OSError, match="is a link"):
                await control(loaded, []).start()
        finally:
            place.unlink()
            (tmp_path / "control").rename(place)


async def test_the_same_errors_on_both_ways(loaded: Loaded) -> None:
    calls: list[tuple[str, dict[str, str], type[BridgeError]]] = [
        ("instances.terminate", {"instance_id": "none"}, InstanceNotFound),
        ("instances.start", {"orchestration": "greet", "instance_id": "@no"}, InvalidCommand),
        ("instances.start", {"orchestration": " "}, InvalidCommand),
        ("quarantine.release", {"source": "orders", "key": "k"}, BridgeError),
    ]

    async def received() -> list[tuple[int, str]]:
        found = []
        for name, parameters, kind in calls:
            with pytest.raises(kind) as caught:
                await operate(loaded, None, [(name, parameters)])
            found.append((exit_codes.of(caught.value), str(caught.value)))
        return found

    direct = await received()
    async with serving(loaded):
        assert await received() == direct
    with pytest.raises(LookupError, match="nowhere"):
        await operate(loaded, "nowhere", [("entities.clean", {})])


async def test_values_arrive_as_they_were(loaded: Loaded) -> None:
    value = {"big": 2**70, "text": "ü\u2028\ud800", "float": 1e300, "nested": [[[None, True]]]}
    async with serving(loaded), attached(loaded) as engine:
        [received] = await operate(loaded, None, [("instances.start", {"orchestration": "greet", "input": value})])
        assert kept(loaded)[-1]["target"] == received["instance_id"]
        from bridge.app.operations.instances.instances import InstanceOperations

        one = await InstanceOperations(engine).wait(received["instance_id"], "completion", TIMEOUT)
        assert one is not None
        assert one.input == value


async def test_any_id_finds_its_place(loaded: Loaded) -> None:
    async with serving(loaded) as channel, client(channel) as session:

        async def lands(instance_id: str) -> None:
            from bridge.app.operations import client as ours
            from bridge.app.operations.table import BY_NAME

            operation = BY_NAME["instances.terminate"]
            before = len(kept(loaded))
            with pytest.raises((InstanceNotFound, InvalidCommand)):
                await ours.ask_over(session, operation, {"instance_id": instance_id})
            [line] = kept(loaded)[before:]
            assert line["target"] == instance_id

        for instance_id in (
            "a:terminate",
            "a%2Fb",
            "%",
            "..",
            ".",
            "a b",
            "ü",
            "a:b:c",
            "?x=1",
            "#",
            "+",
            "a/b",
            "é\n",
        ):
            await lands(instance_id)

        loop = asyncio.get_running_loop()

        @settings(deadline=None, max_examples=60)
        @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
        def any_id(instance_id: str) -> None:
            asyncio.run_coroutine_threadsafe(lands(instance_id), loop).result(TIMEOUT)

        await asyncio.to_thread(any_id)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"output": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'{"instance_id": "other"}', "application/json", 422),
        (b'{"output": "' + b"x" * 20_000_000 + b'"}', "application/json", 413),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_bodies_that_are_none(loaded: Loaded, body: bytes, kind: str, status: int) -> None:
    async with serving(loaded) as channel, client(channel) as session:
        url = "/api/v1/instances/n:terminate"
        async with session.post(url, data=body, headers={"Content-Type": kind}) as response:
            problem = json.loads(await response.read())
        assert (response.status, response.content_type) == (status, "application/problem+json")
        assert list(problem) == ["type", "title", "status", "detail", "reason"]
        assert len(problem["detail"]) < 200


async def test_a_body_that_does_not_come_is_not_waited_for(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "BODY_SECONDS", 0.1)
    async with serving(loaded) as channel:
        with near(channel.path) as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /api/v1/entities:clean HTTP/1.1\r\nHost: x\r\n")
        writer.write(b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_daemon_that_dies_at_work_leaves_a_doubt_not_a_second_try(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(loaded) as channel:
        at_work = asyncio.Event()

        async def dies(operation: Operation[Any], *rest: Any) -> Any:
            if not operation.changes:  # the answer lists the engines
                return await perform(operation, *rest)
            at_work.set()
            return await asyncio.Event().wait()

        monkeypatch.setattr("bridge.app.serve.control.perform", dies)
        asked = asyncio.create_task(operate(loaded, None, [("entities.clean", {})]))
        async with asyncio.timeout(TIMEOUT):
            await at_work.wait()
        await channel.stop()
        with pytest.raises(EngineTimeout, match="did not answer; the outcome is unknown"):
            await asked


async def test_a_daemon_that_freezes_at_work_is_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.serve.control.FIND_SECONDS", 0.3)
    frozen = asyncio.Event()

    async def freezes(operation: Operation[Any], *rest: Any) -> Any:
        if frozen.is_set() or operation.changes:
            frozen.set()
            return await asyncio.Event().wait()
        return await perform(operation, *rest)

    async with serving(loaded):
        monkeypatch.setattr("bridge.app.serve.control.perform", freezes)
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(EngineTimeout, match="stopped answering; the outcome is unknown"):
                await operate(loaded, None, [("entities.clean", {})])


async def test_a_daemon_that_works_long_is_waited_for(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.serve.control.FIND_SECONDS", 0.5)
    looks = 0

    async def slow(operation: Operation[Any], *rest: Any) -> Any:
        nonlocal looks
        looks += not operation.changes
        while operation.changes and looks < 4:
            await asyncio.sleep(0.01)
        return await perform(operation, *rest)

    async with serving(loaded):
        monkeypatch.setattr("bridge.app.serve.control.perform", slow)
        assert await operate(loaded, None, [("entities.clean", {})])
    assert kept(loaded)[-1]["via"] == "socket"


async def test_several_daemons_that_do_not_answer_cost_the_time_of_one(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bridge.app.serve.control.FIND_SECONDS", 0.5)
    directory = loaded.base / ".bridge" / "control"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for number in range(8):
            frozen = directory / f"{number}-frozen.sock"
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            with near(frozen) as path:
                listener.bind(path)
            listener.listen()
            stack.callback(frozen.unlink)
        began = asyncio.get_running_loop().time()
        assert await operate(loaded, None, [("entities.clean", {})])
        assert asyncio.get_running_loop().time() - began < 3.0
    assert "daemon 7 does not answer and is skipped. If it is frozen: kill -CONT 7" in caplog.text


def _ask_as(uid: int, place: Path) -> str:
    """Return the answer that another user gets, or the word of the error; runs in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(place.parent)  # its parents are closed to other users, which is not the subject here
            if uid != os.geteuid():
                os.setuid(uid)
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(place.name)
            connection.request("POST", "/api/v1/entities:clean", b"{}", {"Content-Type": "application/json"})
            os.write(write, str(connection.getresponse().status).encode())
        except OSError as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    received = os.read(read, 1000).decode()
    os.close(read)
    os.waitpid(child, 0)
    return received


@pytest.mark.parametrize("opened", [False, True], ids=["as it is made", "opened by mistake"])
async def test_a_process_of_another_user_gets_nothing(loaded: Loaded, opened: bool) -> None:
    """Another user has rights to the files, or has none. Only root can become another user."""
    root = os.geteuid() == 0
    stranger = 65534 if root else os.geteuid()
    async with serving(loaded, None if root else frozenset((0,))) as channel:
        if opened:
            channel.path.parent.chmod(0o755)
            channel.path.chmod(0o666)
        received = await asyncio.to_thread(_ask_as, stranger, channel.path)
    if opened or not root:
        assert received == "403"
        assert (kept(loaded)[-1]["uid"], kept(loaded)[-1]["result"]) == (stranger, "denied")
    else:
        assert received == "PermissionError"


READS: Mapping[str, tuple[Mapping[str, str], Any]] = {
    "engines": ({}, lambda found: found[0]["name"] == "default"),
    "engines:drain": (
        {"entities": "false"},
        lambda found: found["engine"] == "default" and found["instances"]["waits"] == 2,
    ),
    "instances": (
        {"prefix": "read-", "statuses": "RUNNING,COMPLETED", "limit": "1", "payloads": "true"},
        lambda found: found["all"] == 2 and [one["input"] for one in found["instances"]] == [{"n": 1}],
    ),
    "instances/read-0": ({}, lambda found: found["instance_id"] == "read-0"),
    "instances/read-0/history": ({}, lambda found: any("ExecutionStarted" in json.dumps(event) for event in found)),
    "instances/read-0/timeline": ({}, lambda found: found[0]["data"] == {"n": 0}),
    "instances/read-0/cause": ({}, lambda found: found is None),
    "instances/read-0/recording": ({}, lambda found: found["orchestration"] == "waits"),
    "instances/read-0/wait": ({"until": "start", "seconds": "5"}, lambda found: found["name"] == "waits"),
    "instances:count": ({"name": "waits", "tags": "{}"}, lambda found: sum(each["count"] for each in found) >= 2),
    "early:unprocessed": ({}, lambda found: found == {"count": 0}),
    "quarantine:unprocessed": ({}, lambda found: found == {"count": 0}),
    "entities": ({"entity": "counter", "state": "1"}, lambda found: "read" in {one["key"] for one in found}),
    "entities/counter/read": ({}, lambda found: found["entity"] == "counter"),
    "early": ({}, lambda found: found == []),
    "quarantine": ({}, lambda found: found == []),
    "messages/shop%20none": ({}, lambda found: found == []),
    "limits": ({}, lambda found: found == []),
    "sources": ({}, lambda found: {None} == {one["state"] for one in found}),
    "sources/plain/lag": ({}, lambda found: {one["topic"] for one in found} == {"plain"}),
    "sources/plain/seek": ({}, lambda found: found == {}),
    "sources/plain/seek:plan": ({"to": "end", "partition": "0"}, lambda found: len(found["partitions"]) == 1),
    "canary/0123456789ab": ({}, lambda found: "there is no candidate" in found["detail"]),
    "keys": ({}, lambda found: isinstance(found, list)),
    "early:match": ({"action": "drop", "routes": "none,other"}, lambda found: found == {"count": 0, "messages": 0}),
    "quarantine:match": ({"action": "release", "all": "true"}, lambda found: "count" in found),
    "instances:match": (
        {"action": "terminate", "prefix": "read-", "tags": "{}", "statuses": "RUNNING,PENDING"},
        lambda found: (found["count"], found["reads"]) == (2, 0),
    ),
    "config/reload": ({}, lambda found: found == {"request": None, "daemons": {}}),
    "config/reload:plan": ({}, lambda found: found["result"] == "unchanged"),
    "jobs": ({}, lambda found: found == []),
    "jobs/none": ({}, lambda found: found["reason"] == "instance_not_found"),
    "dead-letter-groups": ({"states": "open"}, lambda found: found == {"groups": [], "gone": []}),
    "dead-letters": ({"states": "open,dropped"}, lambda found: found == []),
    "dead-letters/plain%2F0%400": ({"payload": "true"}, lambda found: found["reason"] == "instance_not_found"),
    "dead-letters:newest": ({"limit": "1"}, lambda found: found == {"total": 0, "dead_letters": [], "next": None}),
    "dead-letters:check": ({"causes": "none"}, lambda found: found["total"] == 0),
    "dead-letters:match": ({"limit": "1", "replays": "true"}, lambda found: found == {"count": 0, "foreign": 0}),
    "dead-letters:export": ({"cursor": "start"}, lambda found: found == {"next": None, "lines": []}),
    "canary": ({}, lambda found: found == []),
    "messages/shop%20none/decision": ({"rules": "now"}, lambda found: found["reason"] == "instance_not_found"),
    "config/history": ({}, lambda found: found == []),
    "config/diff": ({}, lambda found: "no candidate" in found["detail"]),
    "messages/shop%20none/lineage": ({}, lambda found: found["by"] == "nothing"),
    "audit": ({"action": "instances", "limit": "1"}, lambda found: [each["target"] for each in found] == ["read-1"]),
    "config": ({}, lambda found: "brokers:" in found["effective"]),
    "problems": ({}, lambda found: all(each["severity"] == "warning" for each in found)),
    "routes": ({}, lambda found: isinstance(found, list)),
    "targets": ({}, lambda found: isinstance(found, dict)),
    "sagas": ({}, lambda found: "detail" not in found),
    "scaling": ({}, lambda found: [each["engine"] for each in found["engines"]] == ["default"]),
    "scaling:process": ({}, lambda found: "no workers" in found["detail"]),
    "jobs/none/items": ({"statuses": "failed,left", "limit": "10"}, lambda found: "there is no job" in found["detail"]),
}


async def test_every_look_has_its_place(loaded: Loaded) -> None:
    names = {
        "read-0": "{instance_id}",
        "counter/read": "{entity}/{key}",
        "shop%20none": "{message}",
        "dead-letters/plain%2F0%400": "dead-letters/{id}",
        "plain": "{source}",
        "canary/0123456789ab": "canary/{version}",
    }
    places = {re.sub("|".join(names), lambda found: names[found[0]], place) for place in READS}
    assert {place.replace("jobs/none", "jobs/{job}") for place in places} == {
        operation.path for operation in OPERATIONS if not operation.changes
    }
    calls = [
        ("instances.start", {"orchestration": "waits", "instance_id": f"read-{n}", "input": {"n": n}}) for n in (0, 1)
    ]
    signal = {"entity": "counter", "key": "read", "operation": "add", "input": 1}
    broker = build_broker(loaded, "local")
    await broker.start()
    await broker.publish("plain", [Message(b"{}")])
    await broker.stop()
    async with serving(loaded) as channel, client(channel) as session:
        await operate(loaded, None, [*calls, ("entities.signal", signal)])
        for place, (query, fits) in READS.items():

            async def answered(place: str = place, query: Mapping[str, str] = query, fits: Any = fits) -> bool:
                async with session.get(f"/api/v1/{place}", params=query) as response:
                    found = json.loads(await response.read())
                return response.status == (404 if "reason" in (found or ()) else 200) and bool(fits(found))

            await eventually(answered, place)
        async with session.get("/api/v1/instances", params={"statuses": "SLEEPING"}) as response:
            assert response.status == 422
        for query in ({}, {"statuses": "SLEEPING"}, {"tags": "{"}, {"tags": "[]"}, {"where": "nobody.knows("}):
            async with session.get("/api/v1/instances:match", params={"action": "raise", **query}) as response:
                assert response.status == 422
        async with session.post("/api/v1/payloads:erase", json={"where": "nobody.knows("}) as response:
            assert response.status == 422
