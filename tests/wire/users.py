"""Names that users type, scrape or read; they change only with a note for users."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import click
from prometheus_client.parser import text_string_to_metric_families

import bridge.testing
import bridge.workflow
from bridge.app.operations import entities, erase, keys
from bridge.app.operations.instances import instances, sagas
from bridge.app.operations.lineage import lineage, undelivered
from bridge.app.operations.lineage import trace as traced
from bridge.app.operations.table import OPERATIONS
from bridge.cli import root
from bridge.cli.shared import exit_codes
from bridge.config.json_schema import schema
from bridge.core import errors
from bridge.core.states import DaemonState, EngineState
from bridge.lint import finding
from bridge.ops.health import Check, Readiness
from bridge.ops.metrics import Metrics
from bridge.waiting import operations
from tests.kit.source import ROOT
from tests.ops.test_metrics import Engine, Limit, Stats
from tests.wire import source


def command_line() -> list[str]:
    """Return the commands with their parameters and choices."""
    return sorted(_commands(root, ["bridge"]))


def _commands(command: click.Command, path: list[str]) -> Iterator[str]:
    name = " ".join(path)
    yield name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            words = "/".join([*parameter.opts, *parameter.secondary_opts])
        else:
            words = str(parameter.make_metavar(click.Context(command))).strip("[].")
        choices = "|".join(map(str, getattr(parameter.type, "choices", ())))
        yield f"{name} {words}{' = ' + choices if choices else ''}"
        if parameter.envvar:
            yield f"{name} {words} from {parameter.envvar}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from _commands(found, [*path, word])


def configuration() -> list[str]:
    """Return the groups of sibling keys in a configuration, and the allowed words of keys."""
    found: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("properties"), dict):
                found.add("{" + ", ".join(sorted(part["properties"])) + "}")
            if isinstance(part.get("enum"), list):
                found.add(" | ".join(sorted(map(str, part["enum"]))))
            if "const" in part:
                found.add(str(part["const"]))
        for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            walk(each)

    walk(schema())
    return sorted(found)


def control() -> list[str]:
    """Return the operations of the control channel: role, name, method, path and parameters."""
    return sorted(
        f"{each.name}: {each.method} {each.path} by {each.role}, {{{', '.join(sorted(each.parameters.model_fields))}}}"
        for each in OPERATIONS
    )


def printed() -> list[str]:
    """Return the members of printed JSON by command, and of the other dataclasses that become JSON."""
    results = {
        "instances": instances.InstanceInfo,
        "sagas": sagas.SagaInfo,
        "entities": entities.EntityInfo,
        "early list, quarantine list": operations.WaitingMessage,
        "early release, quarantine release": operations.WaitingChange,
        "keys": keys.KeyInfo,
        "trace": lineage.Lineage,
        "trace, behind": traced.Behind,
        "trace, undelivered": undelivered.UndeliveredInfo,
        "check": errors.Problem,
        "lint": finding.Finding,
        "erase": erase.ErasureFinding,
    }
    found = {f"{name} {each}" for name, kind in results.items() for each in _members(kind)}
    return sorted([*found, f"{source.calls_of('asdict', 'fields')} calls make members of attributes: are all here?"])


def _members(kind: type[Any], path: str = "") -> Iterator[str]:
    for name, annotation in get_type_hints(kind).items():
        yield f"{path}.{name}"
        inner = next((each for each in get_args(annotation) if dataclasses.is_dataclass(each)), None)
        if inner is not None and inner is not kind:
            yield from _members(inner, f"{path}.{name}[]")  # type: ignore[arg-type]  # wider than its annotation, on purpose


def metrics() -> list[str]:
    """Return the metrics with their labels."""
    stats = Stats(
        outcomes={"x": 1}, dead_letters={"x": 1}, unreadable={("t", 1, "f"): 1}, gaps={"x": 1}, abandoned={"x": 1},
        commands={("r", "x"): 1}, dead_letter_pauses={"r": 1.0}, commits=(1, 1.0),
    )  # fmt: skip

    class Everything:
        """Counts of publishing, and of early messages and quarantines on an engine."""

        name = engine = "default"
        published = failed = events = quarantined = replayed = {"x": 1}  # noqa: RUF012
        waiting = expiring = waiting_messages = waiting_bytes = refused = delayed = 1

    class Traces:
        """Export of spans."""

        away, sent = None, 1
        waiting = {"memory": 1, "engine": 1}  # noqa: RUF012
        losses = {"x": 1}  # noqa: RUF012

    everything: Any = Everything()
    text = Metrics(
        lambda: [stats], lambda: [Engine()], everything, lambda: {"x": 1}, [Limit()], lambda: [everything],
        lambda: {("orders", "x"): 1}, lambda: {"x": 1}, lambda: {"default": {"x": 1}},
        readiness=lambda: Readiness(DaemonState.RUNNING, (Check("engine", "default", EngineState.UP),)),
        budgets=[everything], traces=Traces(), version="1", config="c",
    ).render()  # fmt: skip
    return sorted(
        {
            f"{sample.name}{{{', '.join(sorted(sample.labels))}}} {family.type}"
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
    )


def codes() -> list[str]:
    return sorted(str(each) for each in vars(exit_codes).values() if isinstance(each, int))


def paths() -> list[str]:
    """Return the paths of the HTTP servers."""
    return sorted(source.first_arguments("add_get", "add_post", "add_route") | _rooted())


def _rooted() -> set[str]:
    return {each for each in source.texts()["words"] if each.startswith("/") and len(each) > 2}


def environment() -> list[str]:
    """Return the environment variables that the product, the demo and the benchmarks read by name."""
    return sorted({each for room in ("bridge", "demo", "benchmarks") for each in source.environment(room)})


def loggers() -> list[str]:
    """Return the names of loggers in log lines; many are module names."""
    found = source.first_arguments("get_logger", "getLogger")
    for path in (ROOT / "bridge").rglob("*.py"):
        if "getLogger(__name__)" in path.read_text():
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found.add(module.removesuffix(".__init__"))
    return sorted(found)


def python() -> list[str]:
    """Return the public names for workflows and tests, with their parameters, members and defaults."""
    found: list[str] = []
    for module in (bridge.workflow, bridge.testing):
        for name in module.__all__:
            found += _public(f"{module.__name__}.{name}", getattr(module, name))
    return sorted(found)


def _public(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, type):
        bases = [each.__module__ + "." + each.__qualname__ for each in value.__mro__[1:] if each is not object]
        yield f"{path} is {', '.join(each for each in bases if not each.startswith('bridge.')) or 'object'}"
        for name, member in inspect.getmembers_static(value):
            if not name.startswith("_") and _is_ours(value, name):
                yield from _public(f"{path}.{name}", getattr(member, "__func__", member))
        with_init = vars(value).get("__init__") is not None or issubclass(value, BaseException)
        if with_init and "__init__" in vars(value):
            yield f"{path}{_parameters(value.__init__)}"  # type: ignore[misc]  # mypy cannot infer it
    elif callable(value):
        yield f"{path}{_parameters(value)}"
    else:
        yield f"{path} = {value!r}" if isinstance(value, str) else path


def _is_ours(kind: type[Any], name: str) -> bool:
    home = next(each for each in kind.__mro__ if name in vars(each))
    return home.__module__.startswith("bridge.")


def _parameters(function: Any) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in found and not any("*" in e for e in found):
            found.append("*")
        found.append(stars.get(parameter.kind, "") + parameter.name)  # type: ignore[call-overload]  # wider than its annotation, on purpose
    return f"({', '.join(found)})"
