"""Answers in a daemon: requested answers reach their workflow, others are dead-lettered."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from durabletask.entities import EntityInstanceId

from bridge.app.operations.entities import EntityOperations
from bridge.app.operations.keys import KeyOperations
from bridge.core.answers import SigningKey
from bridge.core.errors import EngineMisconfigured, EngineRejected
from bridge.engines.commands import answers as answers_module
from bridge.engines.commands.answers import AnswerKeys
from tests.kit.daemon import ENGINES, DaemonFixture, headers, running
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

FLOWS = """
from datetime import timedelta

from durabletask import task

from bridge.workflow import RequestTimedOut, request


def asks(ctx: task.OrchestrationContext, seconds):
    timeout = None if seconds is None else timedelta(seconds=seconds)
    try:
        answer = yield from request(ctx, "service", {"n": 1}, type="asked", reply_to="answers", timeout=timeout)
    except RequestTimedOut:
        answer = "timed out"
    ctx.set_custom_status({"answer": answer})
    yield ctx.wait_for_external_event("end")
    return answer
"""
CONFIG = """
targets: {service: {broker: local, topic: service}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  answers:
    broker: local
    topics: [answers]
    codec: json
    attributes: {type: "headers['kind']"}
    identity: "{{ payload.id }}"
    no_match: dead_letter
routes:
  - name: start
    from: orders
    schedule: {orchestration: asks, instance_id: "asks-{{ payload.id }}", input: payload.timeout}
  - name: by-event
    from: answers
    match: {type: event}
    raise_event:
      instance_id: "{{ event.headers['correlation-id'].substring(37) }}"
      name: "reply:{{ event.headers['correlation-id'] }}"
      on_missing: dead_letter
  - {name: answers, from: answers, reply: {}}
"""


class Service:
    """Daemon with one instance that has sent a request, and the service that answers."""

    def __init__(self, it: DaemonFixture) -> None:
        self.it = it
        self.correlation_id = ""

    async def results(self) -> dict[str, float]:
        found = {}
        for line in (await self.it.daemon.watch.scrape()).decode().splitlines():
            if line.startswith("bridge_answers_total{"):
                found[line.partition('result="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
        return found

    @property
    def dead_letters(self) -> dict[str, int]:
        return dict(self.it.daemon.sources[1].ledger.dead_letters)

    async def ask(self, number: int = 1, timeout: float | None = None) -> None:
        await self.it.publish("orders", {"id": "1", "timeout": timeout})
        message = (await self.it.read("service", number))[-1]
        self.correlation_id = headers(message)["correlation-id"]

    async def answer(self, id_: str, kind: str = "reply", correlation_id: str | None = None, **data: Any) -> None:
        """Send an answer, and return when the daemon has settled it."""
        settled = sum(self.it.daemon.sources[1].ledger.outcomes.values())
        correlation = {"correlation-id": self.correlation_id if correlation_id is None else correlation_id}
        await self.it.publish("answers", {"id": id_, **data}, kind=kind, **correlation)
        ledger = self.it.daemon.sources[1].ledger
        await self.it.until(lambda: sum(ledger.outcomes.values()) > settled, "the answer is settled")

    async def status(self) -> Any:
        state = await self.it.client.get_orchestration_state("asks-1")
        return orjson.loads(state.serialized_custom_status or b"null")

    async def end(self) -> None:
        await self.it.client.raise_orchestration_event("asks-1", "end")
        await self.it.client.wait_for_orchestration_completion("asks-1", timeout=TIMEOUT)


@asynccontextmanager
async def service(directory: Path, engine: str = "embedded", signatures: str = "transition") -> AsyncIterator[Service]:
    settings = f", answers: {{signatures: {signatures}}}"
    async with running(directory, CONFIG, FLOWS, engine, settings=settings) as it:
        yield Service(it)


async def until_answered(it: Service, answer: Any) -> None:
    async def is_answered() -> bool:
        return bool(await it.status() == {"answer": answer})

    await eventually(is_answered, f"the instance has the answer {answer}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["reply", "event"])
async def test_the_first_answer_wins(tmp_path: Path, engine: str, kind: str) -> None:
    async with service(tmp_path, engine) as it:
        await it.ask()
        await it.answer("a", kind, said="first")
        await until_answered(it, {"id": "a", "said": "first"})
        await it.answer("a", kind, said="first")
        await it.answer("b", kind, said="second")
        assert await it.results() == {"accepted": 1, "duplicate": 1, "late": 1}
        await it.end()
        await it.answer("a", kind, said="first")
        await it.answer("c", kind, said="third")
        assert await it.results() == {"accepted": 1, "duplicate": 2, "late": 2}
        # `reply` ignores late answers, `raise_event` dead-letters them
        late = {} if kind == "reply" else {"instance_finished": 2}
        assert it.dead_letters == late
        assert it.it.outcomes()["duplicate"] == 2


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_forged_or_altered_answer_is_dead_lettered_before_any_call(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine) as it:
        await it.ask()
        good = it.correlation_id
        plain = good.partition(";")[0]
        stranger = SigningKey.new(0.0).sign(plain, None)
        forged = [
            plain,
            stranger,
            good[:36] + "@asks-2" + good[len(plain) :],
            good[:-1] + ("A" if good[-1] != "A" else "B"),
            "12345678-1234-1234-1234-123456789012@asks-1",
            "12345678-1234-1234-1234-123456789012@asks-1" + good[len(plain) :],
            "nothing@asks-1",
        ]
        for number, each in enumerate(forged):
            for kind in ("reply", "event"):
                await it.answer(f"f{number}{kind}", kind, each)
        # The last one is too short for the expression of the rule that raises events
        assert it.dead_letters == {"unexpected_reply": 2 * len(forged) - 1, "expression_error": 1}
        assert await it.results() == {"refused": 2 * (len(forged) - 1)}
        history = await it.it.client.get_orchestration_history("asks-1")
        assert not any(getattr(event, "name", "").startswith("reply:1") for event in history)
        assert await it.status() is None
        await it.answer("a", correlation_id=good)
        await until_answered(it, {"id": "a"})


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_answer_after_the_time_is_late(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine) as it:
        await it.ask(timeout=0.05)
        await until_answered(it, "timed out")
        await it.answer("a")
        assert await it.results() == {"late": 1}
        assert it.dead_letters == {}
        history = await it.it.client.get_orchestration_history("asks-1")
        assert not any(getattr(event, "name", "").startswith("reply:") for event in history)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_request_that_was_sent_unsigned_is_answered(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine, "off") as it:
        await it.ask()
        assert ";" not in it.correlation_id
        sent = it.correlation_id
    async with service(tmp_path, engine, "required") as it:
        await it.answer("a", correlation_id=sent)
        assert it.dead_letters == {"unexpected_reply": 1}
    async with service(tmp_path, engine, "transition") as it:
        await it.answer("b", correlation_id="12345678" + sent[8:])
        assert it.dead_letters == {"unexpected_reply": 1}
        await it.answer("c", correlation_id=sent[:37] + "asks-2")
        await it.answer("d", correlation_id=sent)
        await until_answered(it, {"id": "d"})
        await it.answer("d", correlation_id=sent)
        await it.answer("e", correlation_id=sent)
        assert await it.results() == {"refused": 1, "unsigned": 1, "duplicate": 1, "late": 1}


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_key_that_is_newer_than_the_last_read_is_known(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose clock is an hour behind makes a key, which others take for old and sign with at once."""
    monkeypatch.setattr(answers_module, "_UNKNOWN", 0.0)
    async with service(tmp_path, engine) as it:
        await it.ask()
        forged = SigningKey.new(0.0).sign(it.correlation_id.partition(";")[0], None)
        await it.answer("forged", correlation_id=forged)
        assert it.dead_letters == {"unexpected_reply": 1}
        key = SigningKey.new(time.time() - 3600.0)
        keys = AnswerKeys(it.it.daemon.engines["default"])
        await keys.change("rotate", key.to_json(), lambda found: found.find(key.id) is not None)
        plain = it.correlation_id.partition(";")[0]
        await it.answer("a", correlation_id=key.sign(plain, None))
        await until_answered(it, {"id": "a"})
        assert it.dead_letters == {"unexpected_reply": 1}


@pytest.mark.parametrize("engine", ENGINES)
async def test_processes_that_sign_their_first_requests_at_once_use_one_key(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine, "required") as it:
        loop = asyncio.get_running_loop()
        plain = "12345678-1234-1234-1234-123456789012@i"
        rings = [AnswerKeys(it.it.daemon.engines["default"], loop) for _ in range(8)]
        signed = await asyncio.gather(*(asyncio.to_thread(each.sign, plain, None) for each in rings))
        assert len(set(signed)) == 1
        assert len((await rings[0].ring(fresh=True)).keys) == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_rotations_at_once_keep_the_key_that_signs(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine, "required") as it:
        await it.ask()
        engine_ = it.it.daemon.engines["default"]
        for _ in range(6):
            await KeyOperations(engine_).rotate()
        done = await asyncio.gather(*(KeyOperations(engine_).rotate() for _ in range(3)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["EngineRejected", "EngineRejected", "KeyInfo"]
        await it.answer("a")
        await until_answered(it, {"id": "a"})


async def test_a_key_that_another_process_may_sign_with_is_not_retired(tmp_path: Path) -> None:
    async with service(tmp_path, signatures="required") as it:
        await it.ask()
        engine_ = it.it.daemon.engines["default"]
        keys = AnswerKeys(engine_)
        (old,) = (await keys.ring(fresh=True)).keys
        for age in (0.0, 61.0, 100.0):
            new = SigningKey.new(time.time() - age)
            await keys.change("rotate", new.to_json(), lambda found, new=new: found.find(new.id) is not None)  # type: ignore[misc]  # mypy cannot infer it
            with pytest.raises(EngineRejected, match="or did a minute ago"):
                await KeyOperations(engine_).retire(old.id)
            await keys.change("retire", new.id, lambda found, new=new: found.find(new.id) is None)  # type: ignore[misc]  # mypy cannot infer it
        new = SigningKey.new(time.time() - 121.0)
        await keys.change("rotate", new.to_json(), lambda found: found.find(new.id) is not None)
        await KeyOperations(engine_).retire(old.id)
        assert [each.id for each in await KeyOperations(engine_).list()] == [new.id]


SECRET = "S" * 43
DAMAGED = [
    "", "{", "7", "[]", '{"v": 1}', '{"v": 1, "keys": 7}', '{"v": 1, "keys": [7]}', f'"{SECRET}"', f'{{"{SECRET}',
    f'{{"v": 1, "keys": [{{"id": "abcd", "secret": "{SECRET}", "made": "yesterday", "delay": 0}}]}}',
]  # fmt: skip


@pytest.mark.parametrize("state", DAMAGED)
async def test_keys_that_are_damaged_are_replaced_and_never_shown(tmp_path: Path, state: str) -> None:
    async with service(tmp_path, signatures="required") as it:
        await it.ask()
        sent = it.correlation_id
    with sqlite3.connect(tmp_path / ".bridge" / "engine" / "engine.db") as database:
        assert database.execute("UPDATE entities SET state = ?", (state,)).rowcount == 1
    database.close()
    async with service(tmp_path, signatures="required") as it:
        engine_ = it.it.daemon.engines["default"]
        assert SECRET not in str(await EntityOperations(engine_).show("bridge.answers", "keys"))
        assert SECRET not in str(
            await EntityOperations(engine_).list(None, None, None, None, state=True, transient=False)
        )
        await it.answer("a", correlation_id=sent)
        assert it.dead_letters == {"unexpected_reply": 1}
        await KeyOperations(engine_).rotate()
        assert len(await KeyOperations(engine_).list()) == 1
        await it.it.publish("orders", {"id": "2", "timeout": None})
        # The requests lie in partitions: they are read in any order
        ids = [headers(message)["correlation-id"] for message in await it.it.read("service", 2)]
        [again] = [each for each in ids if each != sent]
        assert again.partition(";")[2][:4] == (await KeyOperations(engine_).list())[0].id


async def test_keys_of_a_later_version_are_an_outage_and_stay(tmp_path: Path) -> None:
    later = '{"v": 2, "keys": {"a": "b"}}'
    async with service(tmp_path, signatures="required") as it:
        await it.ask()
    path = tmp_path / ".bridge" / "engine" / "engine.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entities SET state = ?", (later,))
    database.close()
    async with service(tmp_path, signatures="required") as it:
        engine_ = it.it.daemon.engines["default"]
        for call in (KeyOperations(engine_).list, KeyOperations(engine_).rotate):
            with pytest.raises(EngineMisconfigured, match="later version"):
                await call()
        await engine_.client.signal_entity(
            EntityInstanceId("bridge.answers", "keys"), "make", input=SigningKey.new(0.0).to_json()
        )
        await engine_.client.signal_entity(EntityInstanceId("bridge.answers", "keys"), "nothing")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT state FROM entities").fetchall() == [(later,)]
    database.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_keys_are_rotated_with_overlap(tmp_path: Path, engine: str) -> None:
    async with service(tmp_path, engine) as it:
        await it.ask()
        engine_ = it.it.daemon.engines["default"]
        keys = AnswerKeys(engine_)
        new = SigningKey.new(0.0)
        ring = await keys.change("rotate", new.to_json(), lambda found: found.find(new.id) is not None)
        old = ring.keys[1].id
        (shown,) = await EntityOperations(engine_).list("bridge.answers", None, None, None, state=True, transient=False)
        assert [each["id"] for each in shown.state["keys"]] == [new.id, old]
        assert not any(key.to_json()["secret"] in str(shown) for key in ring.keys)
        assert it.correlation_id.partition(";")[2][:4] == old
        await it.answer("a")
        await until_answered(it, {"id": "a"})
        await keys.change("retire", old, lambda found: found.find(old) is None)
        asked = it.correlation_id
    # Another daemon reads the keys from the engine
    async with service(tmp_path, engine) as it:
        await it.answer("b", correlation_id=asked)
        assert it.dead_letters == {"unexpected_reply": 1}
