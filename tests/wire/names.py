"""Names on the wire that the product registers, sends and compares."""

from __future__ import annotations

import asyncio
import importlib
import marshal
import pkgutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import grpc
from durabletask.entities import EntityInstanceId
from durabletask.internal.helpers import get_qualified_name

import bridge
from bridge.app.composition import build_broker, build_engine
from bridge.app.serve import waiting
from bridge.app.serve.system_workflows import SystemWorkflows
from bridge.app.worker_process import user_workflows
from bridge.cli.shared import exit_codes
from bridge.config.source import load as load_config
from bridge.core import errors
from bridge.core.answers import SigningKey, SigningKeyring
from bridge.core.commands import Command
from bridge.core.pace import Paces
from bridge.engines import errors as engine_errors
from bridge.engines.commands.answers import AnswerKeys
from bridge.engines.workflows import Workflows
from bridge.engines.workflows import load as load_workflows
from bridge.pipeline.publishing import Publishing
from bridge.sqlite_engine.model import event, reply
from tests.kit.source import ROOT
from tests.wire import forms, source

CONFIG = """\
engine: {type: embedded, path: state}
brokers: {local: {type: local, path: log}}
sources: {orders: {broker: local, topics: [orders], no_match: dead_letter}}
routes: [{name: start, from: orders, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}]
"""


def modules() -> list[Any]:
    """Return every module of the product."""
    return [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(bridge.__path__, "bridge.")
        if not each.name.endswith("__main__")
    ]


def registered() -> dict[str, Callable[..., Any]]:
    """Return the functions that the workers of a daemon register, by kind and name."""

    async def groups(directory: Path) -> tuple[Workflows, ...]:
        path = directory / "bridge.yaml"
        path.write_text(CONFIG)
        loaded, loop = load_config([path]), asyncio.get_running_loop()
        engine = build_engine(loaded, "default", host=True)
        own = SystemWorkflows(
            loaded,
            {"default": engine},
            {"local": build_broker(loaded, "local")},
            Publishing({}, loop),
            lambda: datetime.fromtimestamp(forms.NOW + 1000.0, UTC),  # all waiting messages have expired
            loop,
            {"default": AnswerKeys(engine, loop)},
            {"default": waiting.totals(loaded, "default")},
        )
        return own.groups(user_workflows(Workflows()), "default")

    with tempfile.TemporaryDirectory() as directory:
        return by_name(asyncio.run(groups(Path(directory))))


def by_name(found: Iterable[Workflows]) -> dict[str, Callable[..., Any]]:
    return {
        f"{kind} {name}": function
        for workflows in found
        for kind, functions in (
            ("orchestration", workflows.orchestrators),
            ("activity", workflows.activities),
            ("entity", workflows.entities),
        )
        for name, function in functions.items()
    }


def samples() -> list[str]:
    """Return the names under which the sample workflows are registered."""
    return sorted(by_name([load_workflows(["workflows"], ROOT)]))


class _Context:
    """Context of one entity operation that records the effects of the operation."""

    def __init__(self, name: str, operation: str, state: Any) -> None:
        self.entity_id = EntityInstanceId(name, "key")
        self.operation = operation
        self.state = state
        self.sent: list[Any] = []

    def get_state(self, *_: Any) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state

    def signal_entity(self, *sent: Any) -> None:
        self.sent.append(sent)

    def schedule_new_orchestration(self, *sent: Any) -> None:
        self.sent.append(sent)


def operations(functions: dict[str, Callable[..., Any]], words: Iterable[str]) -> list[str]:
    """Return the operations of the entities.

    An operation is a word to which an entity reacts differently than to an unknown word.
    """
    keys = SigningKeyring((SigningKey("AAAA", b"1" * 32, 2.0), SigningKey("BBBB", b"2" * 32, 1.0)))
    paces = Paces()
    paces.limit("r", 0.0)
    paces.wrote("r", 0.0)
    samples: dict[str, list[tuple[Any, Any]]] = {
        "bridge.answers": [(keys.to_json(), "BBBB")],
        "bridge.canary": [
            (
                {"round": 0, "counts": {"h/1": [1, 0, 0]}, "fallback": None},
                {"round": 0, "daemon": "h/2", "messages": 60, "dead_letters": 1, "failed": 0}
                | {"after": 50, "failures": 0.5, "at": 1.0, "by": "x", "reason": ""},
            )
        ],
        "bridge.dead_letter_pace": [
            (state, {"route": "r", "now": 1e9, "by": "x"}) for state in (None, paces.to_json())
        ],
        # The tick is due after the present time: neither operation sets another one
        "bridge.lineage_index": [
            (
                {"rows": [["h", 1.0, 0, "i"], ["h", 4e9, 0, "j"]], "from": 1.0, "tick": 5e9},
                {"ids": 2, "age": 60.0, "rows": [["g", 4e9, 0, "k"]]},
            ),
            ({"rows": [["h", 1.0, 0, "i"]], "from": 1.0, "tick": 5e9}, {"ids": 2, "age": 60.0}),
        ],
        "bridge.dead_letters": [(forms.dead_letter_states(), each) for each in forms.dead_letter_changes()],
        "bridge.job": [
            (None, {"request": {"kind": "x"}, "space": None}),
            (forms.job_record("selecting"), {"pages": 1, "items": 2, "by": "x", "id": "t"}),
            (forms.job_record(), {"number": 2, "moves": {"left": -1, "failed": 1}, "at": 1.0, "why": "x", "step": 1}),
            (forms.job_record(), {"token": "other"}),
            (forms.job_record(left=0), {}),
            (forms.job_record("paused"), {}),
            (forms.job_record("aborted"), {}),
        ],
        "bridge.job_page": [
            (None, {"job": "key", "kind": "x", "ids": ["a"]}),
            (forms.job_page(), {"step": 1, "ids": ["b", "c"], "results": {"c": ["skipped", "why"]}}),
            (forms.job_page(), {"b": ["succeeded", ""]}),
        ],
        "bridge.jobs": [(forms.job_registry(), {"job": "a"}), (None, {"job": "b", "space": None})],
        "bridge.parking": [(forms.early_state(), None)],
        "bridge.quarantine": [(forms.quarantine_state(), None)],
        "bridge.source_reload": [
            (None, {"daemon": "h/1", "at": 1.0, "version": "v"}),
            (
                {"request": None, "daemons": {"h/1": {"at": 1.0, "version": "v"}}},
                {"daemon": "h/1", "at": 2.0, "id": "r", "by": "x", "version": "v"},
            ),
        ],
        "bridge.source_seek": [
            (None, {"orders/0": {"to": 1, "stamp": 2, "by": "x", "at": 1.0, "reason": ""}}),
            ({"orders/0": {"to": 1, "stamp": 2}}, {"orders/0": {"stamp": 2, "from": 3, "by": "h/1", "at": 2.0}}),
        ],
        "bridge.replay": [
            (forms.replay_state(), {"results": forms.replay_results(), "owner": "daemon", "at": forms.NOW + 3600.0}),
            (None, {"source": "orders", "job": "j", "page": 0, "items": [], "at": 1.0, "owner": "x", "results": []}),
        ],
        "bridge.replay_edit": [({"letter": {"body": ""}}, None)],
        "bridge.route_limit": [
            (None, {"running": 1, "rate": None, "until": 9.0, "since": 1.0, "by": "x", "reason": ""}),
            ({"until": 2.0, "daemons": {"h/1": 1.0}}, {"daemon": "h/1", "at": 3.0}),
            ({"until": 9.0, "daemons": {}}, {"daemon": "h/1", "at": 3.0}),
        ],
        "bridge.source_pause": [(None, {"since": 1.0, "by": "x", "reason": ""}), ({"since": 1.0, "by": "x"}, None)],
    }
    entities = {name.removeprefix("entity "): each for name, each in functions.items() if name.startswith("entity ")}
    found = []
    for name, function in sorted(entities.items()):
        given = [marshal.dumps((forms.copied(state), forms.copied(value))) for state, value in samples[name]]
        unknown = [_reaction(function, name, "?", each) for each in given]
        found += [
            f"{name} {word}"
            for word in sorted(words)
            if [_reaction(function, name, word, each) for each in given] != unknown
        ]
    return found


def _reaction(function: Callable[..., Any], name: str, operation: str, given: bytes) -> Any:
    """State and effects of an operation, or the class of its exception. given: state and value, by `marshal`."""
    state, value = marshal.loads(given)
    context = _Context(name, operation, state)
    try:
        function(context, value)
    except Exception as error:
        return type(error)
    return context.state, context.sent


def exceptions() -> list[str]:
    """Return the names of exceptions in dead letters and failures, with the word and the exit code of each."""
    modules()
    found = []
    for kind in {*subclasses(errors.BridgeError), *errors.WIRE_NAMES.values()}:
        reason = f" {kind.reason}" if issubclass(kind, errors.BridgeError) else ""
        exits = ""
        if issubclass(kind, errors.BridgeError):
            exits = f" exit {exit_codes.of(kind([]) if kind is errors.ConfigError else kind.__new__(kind))}"
        found.append(f"{get_qualified_name(kind)} = {kind.__name__}{reason}{exits}")
    return sorted(found)


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """Yield a class of the product and all its subclasses in the product."""
    yield kind
    for each in kind.__subclasses__():
        if each.__module__.startswith("bridge."):  # others belong to tests
            yield from subclasses(each)


def failures() -> list[str]:
    """Return the failure types that the engine writes, and those for which a retry cannot help."""
    made = source.first_arguments(event.failure.__name__)
    return sorted({f"made {each}" for each in made} | {f"final {each}" for each in errors.FINAL_FAILURES})


def words() -> list[str]:
    """Return the values of enumerations and literal types, without their Python names."""
    found = set()
    for module in modules():
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, StrEnum) and value.__module__.startswith("bridge."):
                found.add(" | ".join(sorted(value)))
            elif get_origin(value) is Literal:
                found.add(" | ".join(sorted(map(str, get_args(value)))))
    return sorted(found)


def commands() -> list[str]:
    """Return the commands of rules, as named in metrics and `bridge route --json`."""
    return sorted(kind.__name__ for kind in get_args(Command))


def statuses() -> list[str]:
    """Return the gRPC statuses with which the engine answers, and the client error for each."""
    answered = source.attributes_of("StatusCode")
    translated = {
        f"{code.name} is {kind.__name__}" for code, kind in engine_errors.STATUS.items() if code in grpc.StatusCode
    }
    received = {f"{each.code.name}: {each.details}" for each in (reply.unread_full(1, 2),)}
    for text in received:
        translated.add(f"{text} is {type(engine_errors.translate(_Refused(text), what='x')).__name__}")
    return sorted(
        {f"answered {each}" for each in answered} | translated | {"metadata {}: {}".format(*reply.EVENT_CONFIRMED)}
    )


class _Refused(grpc.RpcError):
    def __init__(self, received: str) -> None:
        name, _, self._details = received.partition(": ")
        self._code = grpc.StatusCode[name]

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def patterns() -> list[str]:
    """Return the regular expressions for names, headers and answers of peers."""
    found = {
        value.pattern if isinstance(value.pattern, str) else repr(value.pattern)
        for module in modules()
        for value in vars(module).values()
        if hasattr(value, "fullmatch") and hasattr(value, "pattern")
    }
    return sorted(each.replace("\n", " ") for each in found)
