"""Parts of the bridge, built from a configuration: brokers, engines, routers, decoders, sources."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bridge.brokers import factory as broker_factory
from bridge.brokers.base import Broker, SubscribeOptions
from bridge.config.model.bridge import LineageConfig
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.config.model.sources import LimitsConfig
from bridge.config.model.types import Model
from bridge.config.source import Loaded, load
from bridge.core.errors import ConfigError, Problem
from bridge.core.lineage.shards import ShardLimits
from bridge.core.problems.codes import coded
from bridge.core.settlement import RetryPolicy
from bridge.encryption import KeyProblem, Keyring
from bridge.engines import keyrings
from bridge.engines.base import Engine, StoredEntities
from bridge.system.package import install_extra

if TYPE_CHECKING:
    import ssl

    from bridge.codecs.confluent import Registry
    from bridge.codecs.decoder import SourceDecoder
    from bridge.codecs.schema import JsonSchema
    from bridge.engines.lineage_index import LineageOptions
    from bridge.engines.workflows import Workflows
    from bridge.ops.access import OpsAccess
    from bridge.ops.sessions import BrowserSessions
    from bridge.pipeline.decisions import DecisionListeners
    from bridge.pipeline.lanes import OrderingDomain
    from bridge.pipeline.ledger import Ledger
    from bridge.pipeline.limits.action_budget import ActionBudget, BudgetShare
    from bridge.pipeline.limits.dead_letter_limit import PaceStore
    from bridge.pipeline.limits.route_limits import RouteLimit
    from bridge.pipeline.publishing import PublishTarget
    from bridge.pipeline.rule_set import RuleChooser, RuleSet
    from bridge.pipeline.settings import EnginePort, RecordDeadLetter
    from bridge.pipeline.source import SourcePipeline
    from bridge.pipeline.tracing import Tracer
    from bridge.quarantine.stage import QuarantineStage
    from bridge.quarantine.store import QuarantineStore
    from bridge.replay.feed import ReplayFeed
    from bridge.replay.store import ReplayStore
    from bridge.routing import Router
    from bridge.routing.cel.expression import Compiler
    from bridge.sqlite_engine.options import EndsOptions, TracingOptions
    from bridge.system.tls import TlsFiles
    from bridge.waiting.replays import ReplayReports

# Commands that only read need no pipelines, routers or codecs: the functions that build these import them

DEFAULT_CONFIGS = (Path("bridge.yaml"), Path("config/bridge.yaml"))


def require(kind: str, name: str, known: Collection[str], remedy: str = "") -> None:
    """Check that a name given by a person is configured. Raises: LookupError with the known names or a similar one."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
    raise LookupError(f"there is no {kind} {name!r}{meant}{'; ' + remedy if remedy else ''}")


def load_config(config: Sequence[Path] = (), overlays: Sequence[Path] = ()) -> Loaded:
    """Load the configuration at `config`, or the one that `config_paths` finds. Raises: ConfigError."""
    return load(config_paths(config), overlays)


def config_paths(config: Sequence[Path] = ()) -> Sequence[Path]:
    """Return `config`, or the first of DEFAULT_CONFIGS that exists here, or in a directory above of the same owner.

    Raises: ConfigError.
    """
    if config:
        return config
    for path in DEFAULT_CONFIGS:
        if path.exists():
            return [path]
    if (above := _above(Path.cwd())) is not None:
        return [above]
    searched = " nor ".join(str(path) for path in DEFAULT_CONFIGS)
    raise ConfigError(
        [
            Problem(
                ".",
                0,
                0,
                "",
                f"found neither {searched}; name a file with -c, or create a project with `bridge init NAME`",
                code="C001",
            )
        ]
    )


def _above(directory: Path) -> Path | None:
    """Configuration of the project around a directory. A configuration runs code, so it must have a trusted owner."""
    trusted = {os.geteuid(), 0} if hasattr(os, "geteuid") else None
    for parent in directory.parents:
        for path in DEFAULT_CONFIGS:
            found = parent / path
            try:
                owners = {found.stat().st_uid, found.parent.stat().st_uid}
            except OSError:
                continue
            if trusted is None or owners <= trusted:
                return Path(os.path.relpath(found, directory))
    return None


def load_workflows(loaded: Loaded) -> Workflows:
    """Import the workflow modules of the configuration. Raises: ConfigError."""
    from bridge.engines.workflows import load as load_modules

    workflows = loaded.config.workflows
    return load_modules(workflows.modules, module_base(loaded), loaded.locate, external=workflows.external)


def module_base(loaded: Loaded) -> Path:
    """Directory in which modules named in the configuration are searched up.

    It is the directory of the configuration file, or its parent where only that has one of the modules:
    `config/bridge.yaml` can name the package `workflows` next to `config`.
    """
    tops = own_packages(loaded)
    for directory in (loaded.base, loaded.base.absolute().parent):
        if any((directory / top).is_dir() or (directory / f"{top}.py").is_file() for top in tops):
            return directory
    return loaded.base


def own_packages(loaded: Loaded) -> frozenset[str]:
    """Top-level packages of the configuration's own code: workflow modules, functions of `map:`, key providers."""
    encryptions = (engine.encryption for engine in loaded.config.engines.values())
    providers = (each.provider for each in encryptions if each is not None)
    maps = (route.map for route in loaded.config.routes)
    upcasts = (each.map for source in loaded.config.sources.values() for each in source.upcast)
    references = [*loaded.config.workflows.modules, *filter(None, (*maps, *upcasts, *providers))]
    return frozenset(reference.partition(":")[0].partition(".")[0] for reference in references)


def build_engine(
    loaded: Loaded,
    name: str,
    *,
    host: bool,
    tracing: TracingOptions | None = None,
    ends: EndsOptions | None = None,
) -> Engine:
    """Create an engine, not started.

    host: run an embedded engine in this process; else connect to the running one.
    tracing: settings of the spans of workflows; None: none are made.
    ends: settings of the ends of instances that an embedded engine keeps for announcements; None: it keeps none.
    Raises: ConfigError.
    """
    config = loaded.config.engines[name]
    if config.tls is not None:
        config = config.model_copy(update={"tls": _resolved(loaded, ("engines", name, "tls"), config.tls)})
    try:
        lineage = loaded.config.ops.lineage
        records = None if lineage.index == "off" else lineage.records
        index = lineage_options(lineage) if lineage.index == "all" else None
        keys = partial(read_keyring, loaded, name)
        return create_engine(name, config, loaded.base, host, keys, records, tracing, index, ends)
    except ValueError as error:
        raise ConfigError([loaded.locate(("engines", name, "endpoint"), str(error))]) from None


def stored_entities(loaded: Loaded, name: str) -> StoredEntities | None:
    """Entities of an engine whose file this machine has; None for a remote engine."""
    config = loaded.config.engines[name]
    if not isinstance(config, EmbeddedEngineConfig):
        return None
    from bridge.engines.embedded.stored import StoredFile

    return StoredFile(loaded.base / config.path, partial(read_keyring, loaded, name))


def create_engine(
    name: str,
    config: EmbeddedEngineConfig | SchedulerEngineConfig,
    base: Path,
    host: bool,
    keys: keyrings.Keys = keyrings.no_keys,
    lineage_records: int | None = None,
    tracing: TracingOptions | None = None,
    index: LineageOptions | None = None,
    ends: EndsOptions | None = None,
) -> Engine:
    """Create an engine without starting it.

    base: directory of the configuration file, to which relative paths are resolved.
    host: True when this process may host an embedded engine. A remote engine then reads its keys at the start.
    keys: keys of the engine's encryption.
    lineage_records: limit of the records in an embedded engine's lineage index; None: the engine keeps no index.
    tracing: settings of the spans that an embedded engine makes.
    index: settings of a remote engine's lineage index; None: it has none.
    ends: settings of the ends of instances that an embedded engine keeps for announcements.
    Raises: ValueError when the endpoint is invalid.
    """
    if isinstance(config, EmbeddedEngineConfig):
        from bridge.engines.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(name, config, base / config.path, host, keys, lineage_records, tracing, ends)
    # Imported on demand: the Azure libraries take a quarter of a second, which every command would otherwise pay
    from bridge.engines.scheduler import SchedulerEngine

    return SchedulerEngine(name, config, keys, intake=host, lineage=index)


def lineage_options(config: LineageConfig) -> LineageOptions:
    """Settings of the lineage index of a remote engine."""
    from bridge.engines.lineage_index import LineageOptions

    shards = config.shards
    return LineageOptions(shards.number, ShardLimits(shards.ids, shards.age), shards.pause, shards.buffer)


def read_keyring(loaded: Loaded, name: str) -> Keyring | None:
    """Encryption keys of an engine; None where it has none. Raises: EngineMisconfigured."""
    config = loaded.config.engines[name].encryption
    if config is not None:
        path: tuple[str | int, ...] = ("engines", name, "encryption", "keys")
        keys = [
            key
            if key.file is None
            else key.model_copy(update={"file": str(loaded.resolve((*path, at, "file"), key.file))})
            for at, key in enumerate(config.keys)
        ]
        config = config.model_copy(update={"keys": tuple(keys)})
    return keyrings.load(config, name, module_base(loaded))


_Tls = TypeVar("_Tls", bound=Model)


def build_tls(loaded: Loaded) -> TlsFiles | None:
    """Certificate files of the ops port; None where it has none."""
    from bridge.system.tls import TlsFiles

    if loaded.config.ops.http.tls is None:
        return None
    tls = _resolved(loaded, ("ops", "http", "tls"), loaded.config.ops.http.tls)
    key, client_ca = (None if file is None else Path(file) for file in (tls.key, tls.client_ca))
    return TlsFiles(Path(tls.certificate), key, client_ca)


def build_access(loaded: Loaded) -> OpsAccess:
    """Access to the API. Raises: ConfigError when the file of tokens cannot be read."""
    from bridge.ops.access import Oidc, OpsAccess, TokenFile

    access = loaded.config.ops.http.access
    path = ("ops", "http", "access", "tokens")
    try:
        tokens = None if access.tokens is None else TokenFile(loaded.resolve(path, access.tokens))
    except OSError as error:
        what = f"{access.tokens}: {(error.strerror or 'it cannot be read').lower()}; see `bridge tokens new --help`"
        raise ConfigError([replace(loaded.locate(path, what), code="C024")]) from None
    except ValueError as error:
        raise ConfigError([replace(loaded.locate(path, f"{access.tokens}: {error}"), code="C024")]) from None
    return OpsAccess(tokens, None if access.oidc is None else Oidc(access.oidc))


def session_keys(loaded: Loaded) -> Keyring | None:
    """Keys that the daemons share; None without one. Raises: ConfigError when the files cannot be read."""
    path = ("ops", "http", "access", "sessions", "keys")
    named = loaded.config.ops.http.access.sessions.keys
    files = [loaded.resolve((*path, at), file) for at, file in enumerate(named)]
    try:
        keys = [keyrings.from_file(f"session-{at}", file) for at, file in enumerate(files)]
        return Keyring(keys) if keys else None
    except KeyProblem as problem:
        raise ConfigError([replace(loaded.locate(path, str(problem)), code="C024")]) from None


def build_sessions(loaded: Loaded, access: OpsAccess, keys: Keyring | None) -> BrowserSessions:
    """Sessions of browsers. keys: of `session_keys`."""
    from bridge.ops.sessions import BrowserSessions, random_keyring

    return BrowserSessions(access, keys or random_keyring(), loaded.config.ops.http.access.sessions.duration)


def build_peer_tls(loaded: Loaded) -> ssl.SSLContext:
    """TLS to other daemons. Raises: ConfigError when its files cannot be used."""
    from bridge.system.tls import TlsProblem, client_context

    path, tls = ("ops", "http", "peers", "tls"), loaded.config.ops.http.peers.tls
    if tls is None:
        return client_context(None, None, None)
    tls = _resolved(loaded, path, tls)
    try:
        return client_context(*(None if file is None else Path(file) for file in (tls.ca, tls.certificate, tls.key)))
    except TlsProblem as problem:
        raise ConfigError([replace(loaded.locate(path, str(problem)), code="C024")]) from None


def _resolved(loaded: Loaded, path: tuple[str | int, ...], tls: _Tls) -> _Tls:
    """Copy of TLS settings with absolute paths, relative to the configuration file that names them."""
    files = {name: str(loaded.resolve((*path, name), file)) for name, file in tls if file is not None}
    return tls.model_copy(update=files)


def build_broker(loaded: Loaded, name: str) -> Broker:
    """Create a broker, not started. Raises: ConfigError when the extra is missing."""
    config = loaded.config.brokers[name]

    def resolve(field: str, value: str) -> Path:
        return loaded.resolve(("brokers", name, *(() if field == "path" else ("tls",)), field), value)

    try:
        return broker_factory.create(name, config, resolve)
    except ModuleNotFoundError as error:
        what = f"the package {error.name} is missing; install the extra: {install_extra(config.type)}"
        raise ConfigError([replace(loaded.locate(("brokers", name, "type"), what), code="C014")]) from error


def build_router(loaded: Loaded, source: str) -> Router:
    """Compile the rules of a source. Raises: ConfigError with all problems."""
    from bridge.engines.workflows import functions
    from bridge.routing import Router

    problems: list[Problem] = []
    validators = {}
    limits = loaded.config.sources[source].limits
    for index, route in enumerate(loaded.config.routes):
        if route.schema_file is None or source not in route.from_:
            continue
        try:
            schema = _schema(loaded, ("routes", index, "schema"), route.schema_file, limits)
            validators[route.name] = schema.validate
        except ConfigError as error:
            problems += error.problems
    try:
        router = Router.compile(source, loaded.config, loaded.locate, functions(module_base(loaded)), validators)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return router


def build_decoder(
    loaded: Loaded,
    source: str,
    registries: Mapping[str, Registry] | None = None,
    compiler: Compiler | None = None,
    *,
    imports: bool = True,
) -> SourceDecoder:
    """Create the decoder of a source.

    registries: see `source_codec`.
    compiler: compiler of its expressions; None: a new one.
    imports: import the functions of its upcasts. Without it, messages that need one fail.
    Raises: ConfigError with all problems.
    """
    from bridge.app.codecs import source_codec
    from bridge.codecs.decoder import SourceDecoder, attribute_problem
    from bridge.engines.workflows import functions
    from bridge.routing.cel.expression import SOURCE, Compiler
    from bridge.routing.cel.scope import SourceScope
    from bridge.routing.cel.template import compile_template
    from bridge.routing.upcast import compile_upcasts

    config = loaded.config.sources[source]
    compiler = Compiler(loaded.locate, loaded.config.vars) if compiler is None else compiler
    attributes = {}
    for name, text in config.attributes.items():
        path: tuple[str | int, ...] = ("sources", source, "attributes", name)
        if (problem := attribute_problem(name)) is not None:
            compiler.report(path, problem, "C005")
        expression = compiler.value(text, path, f"source {source!r}, attribute {name}", SOURCE)
        if expression is not None:
            attributes[name] = expression.value
    identity = None
    if config.identity is not None:
        path = ("sources", source, "identity")
        template = compile_template(config.identity, path, f"source {source!r}, identity", compiler, SOURCE)
        identity = template.render if template is not None else None
    resolve = functions(module_base(loaded)) if imports else None
    upcast = compile_upcasts(source, config.upcast, compiler, resolve, config.limits.expression_nanoseconds)
    schema = None
    if config.schema_file is not None and not config.only_types:
        try:
            schema = _schema(loaded, ("sources", source, "schema"), config.schema_file, config.limits)
        except ConfigError as error:
            compiler.problems.extend(error.problems)
    if compiler.problems:
        raise ConfigError(compiler.problems)
    return SourceDecoder(
        source_codec(loaded, source, registries),
        config.limits,
        attributes=attributes,
        identity=identity,
        scope=partial(SourceScope, allowed=config.limits.expression_nanoseconds),
        upcast=upcast,
        schema=schema,
        trusted=config.trusted,
        amqp_headers=broker_factory.has_amqp_headers(loaded.config.brokers.get(config.broker), config),
    )


def build_rule_set(
    loaded: Loaded,
    source: str,
    engines: Mapping[str, EnginePort],
    registries: Mapping[str, Registry] | None = None,
) -> RuleSet:
    """Compile the rules of a source for its pipeline.

    engines: all engines. registries: see `source_codec`.
    Raises: ConfigError.
    """
    from bridge.app.claims import build_claims
    from bridge.pipeline.rule_set import RuleSet

    router = build_router(loaded, source)
    decoder = build_decoder(loaded, source, registries)
    used = {name for route in loaded.config.routes if source in route.from_ for name in route.find}
    retry = loaded.config.sources[source].retry
    return RuleSet(
        loaded.version,
        router,
        decoder.decode,
        RetryPolicy(**retry.model_dump(), max_hold=subscribe_options(loaded, source).max_hold),
        {name: engine for name, engine in engines.items() if name in used},
        decoder.prepare,
        claims=build_claims(loaded, source),
    )


def build_targets(
    loaded: Loaded, brokers: Mapping[str, Broker], registries: Mapping[str, Registry] | None = None
) -> dict[str, PublishTarget]:
    """Create the destinations of publications. registries: see `target_codec`. Raises: ConfigError."""
    from bridge.app.claims import build_published_claims
    from bridge.app.codecs import target_codec
    from bridge.pipeline.publishing import PublishTarget

    return {
        name: PublishTarget(
            brokers[target.broker],
            target.address,
            target_codec(loaded, name, registries),
            target.source,
            target.timeout,
            broker_factory.message_shape(target),
            broker_factory.messaging_system(loaded.config.brokers[target.broker]),
            build_published_claims(loaded, name),
        )
        for name, target in loaded.config.targets.items()
    }


def subscribe_options(loaded: Loaded, source: str) -> SubscribeOptions:
    """Subscription options of a source."""
    config = loaded.config.sources[source]
    return broker_factory.subscribe_options(loaded.config.brokers[config.broker], config)


def _schema(loaded: Loaded, path: tuple[str | int, ...], file: str, limits: LimitsConfig) -> JsonSchema:
    from bridge.codecs.schema import JsonSchema, SchemaProblem

    try:
        return JsonSchema(loaded.resolve(path, file), limits.schema_cost)
    except SchemaProblem as problem:
        raise ConfigError([coded("C012", loaded.locate(path, str(problem)))]) from None


def build_domains(loaded: Loaded) -> Mapping[str, OrderingDomain]:
    """Create the ordering domains that sources name and share."""
    from bridge.pipeline.lanes import OrderingDomain

    names = {source.ordering_domain for source in loaded.config.sources.values()}
    return {name: OrderingDomain(name) for name in names if name is not None}


def build_source(
    loaded: Loaded,
    name: str,
    brokers: Mapping[str, Broker],
    engines: Mapping[str, EnginePort],
    *,
    limits: Mapping[str, RouteLimit] | None = None,
    budgets: Mapping[str, ActionBudget] | None = None,
    costs: Mapping[str, int] | None = None,
    domains: Mapping[str, OrderingDomain] | None = None,
    quarantine_store: tuple[str, QuarantineStore] | None = None,
    paces: PaceStore | None = None,
    registries: Mapping[str, Registry] | None = None,
    record: RecordDeadLetter | None = None,
    tracer: Tracer | None = None,
    replays: ReplayStore | None = None,
    replay_reports: ReplayReports | None = None,
    decisions: DecisionListeners | None = None,
    chooser: Callable[[str, RuleSet], RuleChooser] | None = None,
    ledger: Ledger | None = None,
    rules: RuleSet | None = None,
) -> SourcePipeline:
    """Create the pipeline of a source, not started.

    limits: limits of all routes that have some.
    budgets, costs: budgets of the engines that have one, and the actions of each route.
    domains: all ordering domains.
    quarantine_store: store of the source's quarantined keys.
    paces: shared pace of its dead letters.
    registries: see `source_codec`.
    record: records written dead letters.
    tracer: None where traces are off.
    replays: replay queues of its dead letters; None: the source brings none back.
    replay_reports: informs the jobs that replay messages in quarantine.
    decisions: listeners of the settled deliveries of all sources.
    chooser: makes the choice between rule sets of the source; None: it has the given one.
    ledger: see `SourcePipeline`.
    rules: its rule set; None compiles it.
    Raises: ConfigError.
    """
    from bridge.pipeline.rule_set import CurrentRules
    from bridge.pipeline.settings import SourceSettings
    from bridge.pipeline.source import SourcePipeline
    from bridge.pipeline.tracing import SourceTracing
    from bridge.quarantine.stage import QuarantineStage
    from bridge.replay.feed import ReplayFeed

    config = loaded.config.sources[name]
    broker = loaded.config.brokers[config.broker]
    settings = SourceSettings(
        name=name,
        subscribe=subscribe_options(loaded, name),
        limits=config.limits,
        ordering=config.ordering,
        trusted_replay=config.trusted == "replay",
    )
    rules = build_rule_set(loaded, name, engines, registries) if rules is None else rules

    def quarantine(pipeline: SourcePipeline) -> QuarantineStage:
        assert quarantine_store is not None
        engine, store = quarantine_store
        return QuarantineStage(pipeline, store, config.quarantine, engine, replay_reports)

    def feed(pipeline: SourcePipeline) -> ReplayFeed:
        assert replays is not None
        return ReplayFeed(pipeline, replays)

    return SourcePipeline(
        settings,
        brokers[config.broker],
        CurrentRules(rules) if chooser is None else chooser(name, rules),
        route_limits=limits_of(loaded, name, limits or {}),
        budgets=shares_of(loaded, name, budgets or {}, costs or {}),
        domain=domains[config.ordering_domain] if domains and config.ordering_domain else None,
        stage=None if quarantine_store is None else quarantine,
        feed=None if replays is None else feed,
        paces=paces,
        record=record,
        tracing=None
        if tracer is None
        else SourceTracing(
            tracer,
            settings,
            broker_factory.messaging_system(broker),
            broker_factory.span_attributes(broker),
            links=loaded.config.ops.tracing.parent == "link",
        ),
        decisions=decisions,
        ledger=ledger,
    )


def limits_of(loaded: Loaded, source: str, limits: Mapping[str, RouteLimit]) -> dict[str, RouteLimit]:
    """Limits of the routes of a source. limits: of all routes that have some."""
    names = [route.name for route in loaded.config.routes if source in route.from_]
    return {name: limits[name] for name in names if name in limits}


def shares_of(
    loaded: Loaded, source: str, budgets: Mapping[str, ActionBudget], costs: Mapping[str, int]
) -> dict[str, BudgetShare]:
    """Shares of the routes of a source in the budgets of their engines. costs: actions of each route."""
    from bridge.pipeline.limits.action_budget import BudgetShare

    return {
        route.name: BudgetShare(budgets[route.engine], costs.get(route.name, 1))
        for route in loaded.config.routes
        if source in route.from_ and route.engine in budgets
    }
