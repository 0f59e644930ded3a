"""Names of the configuration for the completion of a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

if TYPE_CHECKING:
    from bridge.config.source import Loaded


class ConfiguredName(StringParamType):
    """Text that may be a name of the configuration. Any text is accepted: the command checks it.

    kind: key of `NAMES`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = (name for name in dict.fromkeys(_names(ctx, self._kind)) if name.startswith(incomplete))
        return [CompletionItem(name) for name in found]


def _names(ctx: click.Context, kind: str) -> Iterable[str]:
    """Names of a kind, also of a configuration with problems; none where it cannot be read."""
    from bridge.app.composition import config_paths
    from bridge.config.source import survey
    from bridge.core.errors import BridgeError

    try:
        loaded = survey(config_paths(ctx.params.get("config") or ()), ctx.params.get("overlay") or ()).loaded
        return [] if loaded is None else list(NAMES[kind](loaded))
    except (BridgeError, OSError, LookupError):
        return []


def _orchestrations(loaded: Loaded) -> Iterable[str]:
    from bridge.app.check.workflows import names
    from bridge.lint import known_names
    from bridge.lint.names import ORCHESTRATION

    commands = [route.schedule or route.start_or_raise for route in loaded.config.routes]
    started = (command.orchestration for command in commands if command is not None)
    return chain(filter(None, started), sorted(known_names(names(loaded)).names[ORCHESTRATION]))


def _places(loaded: Loaded) -> Iterable[str]:
    """Sources, and topics of brokers as `BROKER/TOPIC`."""
    from bridge.app.composition import subscribe_options

    yield from loaded.config.sources
    for name, source in loaded.config.sources.items():
        dead_letters = subscribe_options(loaded, name).dead_letter or "{topic}/$DeadLetterQueue"
        for origin in source.origins:
            yield f"{source.broker}/{origin}"
            yield f"{source.broker}/{dead_letters.replace('{topic}', origin)}"
    yield from (f"{target.broker}/{target.address}" for target in loaded.config.targets.values())


NAMES: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "sources": lambda loaded: loaded.config.sources,
    "routes": lambda loaded: (route.name for route in loaded.config.routes),
    "engines": lambda loaded: loaded.config.engines,
    "orchestrations": _orchestrations,
    "places": _places,
}
"""Names by kind."""

KINDS = {
    "source": "sources",
    "sources": "sources",
    "route": "routes",
    "routes": "routes",
    "expect": "routes",
    "engine": "engines",
    "orchestration": "orchestrations",
    "place": "places",
    "destination": "places",
}
"""Kinds of the names that parameters take, by the name of the parameter."""


def complete_names(command: click.Command) -> None:
    """Let the parameters of a command that take a name of the configuration complete it."""
    for parameter in command.params:
        if parameter.type is click.STRING and parameter.name in KINDS:
            parameter.type = ConfiguredName(KINDS[parameter.name])
