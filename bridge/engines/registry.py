"""Discovery of workflows: the functions and classes of named modules that a worker runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from bridge.core.errors import ConfigError, Locate, Problem
from bridge.core.kinds import OWN_NAMES, Kind
from bridge.engines.discovery import Unusable, classify, entity_name, location
from bridge.engines.modules import ImportFailed, import_module, walk


@dataclass(frozen=True, slots=True)
class Workflows:
    """Workflows of a worker by registered name. Names of entities are lower case, as in the SDK.

    external: orchestrations, activities and entities that other workers run; known here, not registered.
    publishers: True for a set of publishing activities only, which get a worker with threads of its own.
    """

    orchestrators: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    activities: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    entities: Mapping[str, Callable[..., Any] | type[Any]] = field(default_factory=dict)
    external: frozenset[str] = frozenset()
    publishers: bool = False

    def knows(self, kind: Kind, name: str) -> bool:
        """True when this or another worker runs the name. The bridge's own names are always known."""
        if name.startswith(OWN_NAMES):
            return True
        match kind:
            case Kind.ACTIVITY:
                return name in self.activities or name in self.external
            case Kind.ORCHESTRATOR:
                return self.knows_orchestration(name)
            case Kind.ENTITY:
                return self.knows_entity(name)

    def knows_orchestration(self, name: str) -> bool:
        return name in self.orchestrators or name in self.external

    def knows_entity(self, name: str) -> bool:
        return name.lower() in self.entities or name.lower() in {one.lower() for one in self.external}


def load(
    modules: Sequence[str], base: Path, locate: Locate | None = None, *, external: Sequence[str] = ()
) -> Workflows:
    """Import the modules and collect the workflows in them.

    modules: module or package names (a package with its submodules, except private ones and `__main__`), or
    `module:name` for a single function or class. The directory of the configuration file is searched first.
    base: directory of the configuration file, which is put at the front of `sys.path` and stays there, because
    workflows also import lazily.
    locate: creates a Problem from a configuration path, `("workflows", "modules", 2)`, and a description.

    Workflows are: functions whose first parameter is annotated with OrchestrationContext, ActivityContext or
    EntityContext; without an annotation, functions whose first parameter is named ctx or context (a generator is an
    orchestrator, any other function an activity); and subclasses of DurableEntity. Each is collected only in the module
    that defines it, and not when its name begins with `_`. The SDK calls functions with context and input. Functions
    that need more arguments are therefore left out as helpers.

    Raises: ConfigError with every problem: failed imports, name clashes, async functions.
    """
    locate = locate or (lambda path, what: Problem(str(base), 0, 0, _dotted(path), what))
    found: dict[Kind, dict[str, Callable[..., Any]]] = {kind: {} for kind in Kind}
    problems: list[Problem] = []
    for position, reference in enumerate(modules):
        path = ("workflows", "modules", position)
        try:
            members, wrong = _members(reference, base)
        except ImportFailed as error:
            problems.append(locate(path, str(error)))
            continue
        problems += [locate(path, what) for what in wrong]
        for kind, name, member in members:
            other = found[kind].setdefault(name, member)
            if other is not member:
                problems.append(
                    locate(path, f"{kind} {name!r} is defined twice: {location(other)} and {location(member)}")
                )
    if problems:
        raise ConfigError(problems)
    return Workflows(
        orchestrators=MappingProxyType(found[Kind.ORCHESTRATOR]),
        activities=MappingProxyType(found[Kind.ACTIVITY]),
        entities=MappingProxyType(found[Kind.ENTITY]),
        external=frozenset(external),
    )


def functions(base: Path) -> Callable[[str], Callable[..., Any]]:
    """Create a resolver of `module:function` references, which looks beside the configuration file first.

    The resolver raises ImportFailed (its text names module, cause and line) when the function does not exist.
    """

    def resolve(reference: str) -> Callable[..., Any]:
        module_name, _, name = reference.partition(":")
        if not name:
            raise ImportFailed(f"{reference!r} must have the form module:function")
        member = _attribute(import_module(module_name, base), name)
        if not callable(member):
            raise ImportFailed(f"{name!r} in module {module_name!r} is not a function")
        function: Callable[..., Any] = member
        return function

    return resolve


Member = tuple[Kind, str, Callable[..., Any]]


def _members(reference: str, base: Path) -> tuple[list[Member], list[str]]:
    """Workflows that a reference names, and descriptions of its problems. Raises: ImportFailed."""
    module_name, _, name = reference.partition(":")
    module = import_module(module_name, base)
    if name:
        candidates = [_attribute(module, name)]
    else:
        candidates = [member for part in walk(module, base) for member in _own(part)]
    members: list[Member] = []
    problems: list[str] = []
    for candidate in candidates:
        try:
            kind = classify(candidate)
            if kind is not None:
                members.append((kind, entity_name(candidate) if kind is Kind.ENTITY else candidate.__name__, candidate))
            elif name:
                problems.append(f"{reference!r} is not an orchestrator, activity or entity ({location(candidate)})")
        except Unusable as error:
            problems.append(str(error))
    if not members and not problems:
        problems.append(f"no orchestrators, activities or entities in {reference!r}")
    return members, problems


def _own(module: ModuleType) -> list[Any]:
    """Public members that the module defines, each once, in the order of their definition."""
    own = {
        id(member): member
        for name, member in vars(module).items()
        if not name.startswith("_") and callable(member) and getattr(member, "__module__", None) == module.__name__
    }
    return list(own.values())


def _attribute(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ImportFailed(f"module {module.__name__!r} has no {name!r}") from None
    return value


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
