"""Reload of the configuration of a running daemon: checked whole first, then taken over without a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from bridge.app import configurations
from bridge.app.candidate import candidate_rules, load_candidate
from bridge.app.check.configuration import check
from bridge.app.composition import build_rule_set, build_targets, limits_of, own_packages, shares_of
from bridge.app.reload.changes import ChangeKind, Changes, SourceChange, changes
from bridge.app.reload.code import ImportedCode, digest_of
from bridge.app.reload.stats import ReloadResult
from bridge.app.serve import waiting
from bridge.app.serve.admission import action_costs
from bridge.app.serve.daemon import Daemon
from bridge.app.serve.failures import known_orchestrations
from bridge.app.serve.reload.file_watch import schema_paths
from bridge.app.serve.topics import check_topics
from bridge.app.serve.views.status import daemon_id
from bridge.brokers.factory import rebalances_groups
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError, ConfigError, Problem, wire_name
from bridge.ops.status import StatusDocument
from bridge.pipeline.lanes import OrderingDomain
from bridge.pipeline.publishing import PublishTarget
from bridge.pipeline.rule_set import RuleSet
from bridge.pipeline.source import SourcePipeline
from bridge.system.tasks import closed

log = structlog.get_logger("bridge.reload")

STARTED_SECONDS = 15.0
"""Seconds for changed sources to drain and start before the answer; later ones are reported as `starting`."""

_MOST_PROBLEMS = 100
"""Most problems of an answer. The log has all of them."""


@dataclass(frozen=True, slots=True)
class Files:
    """Configuration files and overlays of a process, as `bridge.app.composition.load_config` takes them."""

    config: Sequence[Path] = ()
    overlays: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Checked configuration with its compiled parts, and the changes that it makes. Nothing of it is in use.

    rules: rule set of each source.
    costs: actions of each route, where an engine limits them.
    schemas: digests of its JSON Schema files.
    candidate, candidate_rules: candidate for the rules, if any, and its rule sets by source.
    """

    loaded: Loaded
    changes: Changes
    rules: Mapping[str, RuleSet] = field(default_factory=dict)
    targets: Mapping[str, PublishTarget] = field(default_factory=dict)
    costs: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[Problem] = ()
    schemas: Mapping[Path, bytes] = field(default_factory=dict)
    candidate: Loaded | None = None
    candidate_rules: Mapping[str, RuleSet] = field(default_factory=dict)


@wire_name("bridge.app.reload.ReloadRefused")
class ReloadRefused(BridgeError):
    """Refused reload. Nothing has changed."""

    reason = "reload_refused"

    def __init__(self, problems: Sequence[str], changes: Changes | None = None) -> None:
        """Create the error. changes: of a valid configuration that cannot be taken over."""
        super().__init__("; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else ""))
        self.problems = problems
        self.changes = changes


class Reloader:
    """Reloader of the configuration of one daemon, one reload at a time.

    The rule is: all or nothing. A configuration that `bridge check` refuses, or a change that needs a restart, leaves
    everything as it is.
    """

    def __init__(self, daemon: Daemon, files: Files) -> None:
        """Create the reloader when the daemon has imported its workflows. files: read again at each reload."""
        self.files = files
        self._daemon = daemon
        self._code = ImportedCode(own_packages(daemon.loaded))
        self._lock = asyncio.Lock()
        self._work: set[asyncio.Task[None]] = set()
        """Sources that drain or start."""
        self._stopping = False
        self._schemas: Mapping[Path, bytes] = _schema_digests(daemon.loaded)

    async def plan(self) -> StatusDocument:
        """Answer of a reload without the reload. Raises nothing but bugs."""
        async with self._lock:
            try:
                plan = await self._plan()
            except ReloadRefused as refused:
                answer = self._answer(ReloadResult.REFUSED, refused.changes, problems=refused.problems)
            else:
                result = ReloadResult.RELOADED if plan.changes.any else ReloadResult.UNCHANGED
                answer = self._answer(result, plan.changes, to=plan.loaded.version)
            return answer | {"dry_run": True}

    async def reload(self, by: str) -> StatusDocument:
        """Reload the configuration. by: name of the person or of the signal, for the log. Raises nothing but bugs."""
        async with self._lock:
            daemon, before = self._daemon, self._daemon.loaded.version
            try:
                plan = await self._plan()
            except ReloadRefused as refused:
                daemon.reloads.refuse(str(refused))
                if daemon.lifecycle is not None:
                    daemon.lifecycle.refused(before, by, refused.problems)
                log.error(
                    f"the reload is refused, the configuration {before} stays in use: {refused}",
                    action="reload", result=ReloadResult.REFUSED, by=by, config=before, problems=list(refused.problems),
                )  # fmt: skip
                return self._answer(ReloadResult.REFUSED, refused.changes, problems=refused.problems)
            starting, left = await self._apply(plan) if plan.changes.any else ((), {})
            daemon.reloads.succeed(plan.loaded.version, changed=plan.changes.any)
            result = ReloadResult.RELOADED if plan.changes.any else ReloadResult.UNCHANGED
            answer = self._answer(result, plan.changes, before=before, starting=starting, dead_letters=left)
            log.info(
                f"the configuration is {result}: {before} to {plan.loaded.version}"
                if plan.changes.any
                else f"the configuration {before} is unchanged",
                action="reload", result=result, by=by, config=plan.loaded.version,
                sources={
                    each.source: str(each.change)
                    for each in plan.changes.sources
                    if each.change is not ChangeKind.UNCHANGED
                },
                routes={each.route: str(each.change) for each in plan.changes.routes},
            )  # fmt: skip
            if plan.changes.any:
                if daemon.lifecycle is not None:
                    daemon.lifecycle.reloaded(before, plan.loaded.version, by, plan.changes)
                for problem in plan.warnings:
                    log.warning(str(problem), action="check")
            return answer

    async def stop(self, deadline: float) -> None:
        """Wait for draining sources, and stop starting others. deadline: seconds."""
        self._stopping = True
        for task in self._work:
            if task.get_name().startswith(_STARTS):
                task.cancel()
        if self._work:
            await asyncio.wait(self._work, timeout=deadline)

    # -- plan

    async def _plan(self) -> Plan:
        """Check and compile the configuration. Raises: ReloadRefused."""
        daemon = self._daemon
        if code := await asyncio.to_thread(self._code.changed):
            raise ReloadRefused(
                [f"{path}: workflow code has changed, which needs a restart of the daemon" for path in code]
            )
        files = self.files
        report = await asyncio.to_thread(check, files.config, files.overlays, imports=daemon.runs_worker)
        if report.errors or report.loaded is None:
            raise ReloadRefused(_texts(report.problems))
        loaded = report.loaded
        schemas = await asyncio.to_thread(_schema_digests, loaded)
        other = tuple(str(file) for file, digest in schemas.items() if self._schemas.get(file, digest) != digest)
        found = changes(daemon.loaded, loaded, other)
        candidate = await asyncio.to_thread(load_candidate, loaded) if daemon.is_intake else None
        if (candidate and candidate.version) != (daemon.candidate and daemon.candidate.version):
            found = replace(found, settings=tuple(dict.fromkeys((*found.settings, "rules.candidate"))))
        if found.restart:
            raise ReloadRefused(
                [f"{key} has changed, which needs a restart of the daemon" for key in found.restart], found
            )
        if refused := daemon.refusals(loaded, daemon.engines):
            raise ReloadRefused([str(each) for each in refused], found)
        try:
            plan = await asyncio.to_thread(self._compiled, loaded, candidate, found, report.problems)
            plan = replace(plan, schemas=schemas)
            if any(each.change in _MOVES for each in found.sources) or _publishes(found):
                await check_topics(loaded, daemon.brokers, intake=daemon.is_intake, worker=daemon.runs_worker)
        except ConfigError as error:
            raise ReloadRefused(_texts(error.problems), found) from error
        except BridgeError as error:
            raise ReloadRefused([f"a broker is needed for changed sources or targets: {error}"], found) from error
        return plan

    def _compiled(self, loaded: Loaded, candidate: Loaded | None, found: Changes, warnings: Sequence[Problem]) -> Plan:
        """Compile what the configuration needs, on a thread of its own. Raises: ConfigError."""
        daemon = self._daemon
        rules = {
            name: build_rule_set(loaded, name, daemon.targets, daemon.registries)
            for name in (loaded.config.sources if daemon.is_intake else ())
        }
        others = candidate_rules(loaded, candidate, daemon.targets, daemon.registries)
        targets = build_targets(loaded, daemon.brokers, daemon.registries)
        costs = action_costs(loaded) if daemon.budgets else {}
        return Plan(loaded, found, rules, targets, costs, warnings, candidate=candidate, candidate_rules=others)

    # -- change

    async def _apply(self, plan: Plan) -> tuple[list[str], Mapping[str, int]]:
        """Take the configuration over.

        Return the names of sources that do not run yet, and numbers of open dead letters that no source has any more.
        """
        daemon, loaded = self._daemon, plan.loaded
        left, dead_letters = self._swap(plan)
        await closed(*(each.stop() for each in left))
        await asyncio.to_thread(configurations.store, loaded)
        self._code.add(own_packages(loaded) | (own_packages(plan.candidate) if plan.candidate else frozenset()))
        self._schemas = plan.schemas
        if not daemon.is_intake:
            return [], dead_letters
        work = self._changed_sources(plan)
        if work:
            await asyncio.wait([task for _, task in work], timeout=STARTED_SECONDS)
        return [name for name, task in work if not task.done()], dead_letters

    def _swap(self, plan: Plan) -> tuple[Sequence[Any], Mapping[str, int]]:
        """Use everything but new sources, between two messages.

        Return counts of instances that are to be stopped, and numbers of dead letters as `Daemon.use`.
        """
        daemon, loaded = self._daemon, plan.loaded
        config = loaded.config
        dead_letters = daemon.use(loaded, plan.candidate)
        daemon.publishing.replace(plan.targets)
        known = known_orchestrations(loaded, daemon.workflows)
        for name, finishes in daemon.finishes.items():
            finishes.add_names(known)
            early = config.engines[name].early_messages
            daemon.early[name].cover(waiting.early_prefixes(loaded, name, daemon.candidate))
            daemon.early[name].store.limit(early.max_message)
            daemon.own.waiting_entities[name].limit(early, waiting.poll_seconds(loaded, daemon.engines[name]))
        if not daemon.is_intake:
            return (), dead_letters
        daemon.canary.use(loaded, plan.candidate, plan.candidate_rules)
        left = daemon.build_limits()
        sources = {source.settings.name: source for source in daemon.sources}
        for each in plan.changes.sources:
            if each.change in (ChangeKind.RULES, ChangeKind.UNCHANGED):
                source = sources[each.source]
                limits = {route: limit for route, limit in source.route_limits.items() if limit.reason is not None}
                shares = {route: share for route, share in source.budgets.items() if share.reason is not None}
                source.use(
                    plan.rules[each.source],
                    limits | limits_of(loaded, each.source, daemon.admission.limits),
                    shares | shares_of(loaded, each.source, daemon.budgets, plan.costs),
                )
        return left, dead_letters

    def _changed_sources(self, plan: Plan) -> list[tuple[str, asyncio.Task[None]]]:
        """Drain and start the sources that have changed, each alone, and those of an ordering domain together.

        Return the work of each source.
        """
        daemon, loaded = self._daemon, plan.loaded
        old = {source.settings.name: source for source in daemon.sources}
        domain_of = {name: config.ordering_domain for name, config in loaded.config.sources.items()}
        domain_of |= {name: source.domain.name for name, source in old.items() if source.domain is not None}
        changed = [each for each in plan.changes.sources if each.change in _MOVES]
        ended = {domain_of.get(each.source) for each in changed if each.change is not ChangeKind.ADDED} - {None}
        for domain in filter(None, {config.ordering_domain for config in loaded.config.sources.values()}):
            if domain not in daemon.domains or domain in ended:
                daemon.domains[domain] = OrderingDomain(domain)
        groups: dict[tuple[str, str | None], list[SourceChange]] = {}
        for each in changed:
            domain_name = domain_of.get(each.source)
            key = ("domain", domain_name) if domain_name in ended else ("source", each.source)
            groups.setdefault(key, []).append(each)
        work = []
        for group in groups.values():
            draining = [old[each.source] for each in group if each.change is not ChangeKind.ADDED]
            starting = [
                daemon.build_source(
                    loaded,
                    each.source,
                    daemon.domains,
                    daemon.admission.limits,
                    plan.costs,
                    old[each.source].ledger if each.source in old else None,
                    plan.rules[each.source],
                )
                for each in group
                if each.change is not ChangeKind.REMOVED
            ]
            for source in draining:
                daemon.remove_source(source.settings.name)
            for source in starting:
                daemon.add_source(source)
            task = self._begin(f"{_DRAINS}{group[0].source}", self._exchange(draining, starting))
            work += [(each.source, task) for each in group]
        return work

    async def _exchange(self, draining: Sequence[SourcePipeline], starting: Sequence[SourcePipeline]) -> None:
        """Drain sources, then start others."""
        await closed(*(source.drain(self._daemon.loaded.config.ops.drain * 0.6) for source in draining))
        if starting and not self._stopping:
            start = self._begin(f"{_STARTS}{starting[0].settings.name}", self._start(starting))
            await asyncio.wait([start])

    async def _start(self, sources: Sequence[SourcePipeline]) -> None:
        await self._daemon.pauses.read()
        await asyncio.gather(*map(self._start_one, sources))

    async def _start_one(self, source: SourcePipeline) -> None:
        try:
            await self._daemon.start_source(source, patient=True)
        except Exception as error:
            name = source.settings.name
            log.error(
                f"source {name} cannot start; correct it and reload", action="reload", source=name, exc_info=error
            )
            source.gate.hold("start", str(error))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    # -- answer

    def _answer(
        self,
        result: ReloadResult,
        found: Changes | None,
        *,
        before: str | None = None,
        to: str | None = None,
        problems: Sequence[str] = (),
        starting: Collection[str] = (),
        dead_letters: Mapping[str, int] = MappingProxyType({}),
    ) -> StatusDocument:
        """Answer as JSON types. before, to: versions; None for the one in use. dead_letters: see `Daemon.use`."""
        daemon = self._daemon
        version = daemon.loaded.version
        groups = _shared_groups(daemon.loaded, found) if found is not None and daemon.is_intake else {}
        return {
            "daemon": daemon_id(os.getpid()),
            "result": str(result),
            "dry_run": False,
            "from": version if before is None else before,
            "to": version if to is None else to,
            "sources": []
            if found is None or not daemon.is_intake
            else [
                {
                    "source": each.source,
                    "change": str(each.change),
                    "keys": list(each.keys),
                    "routes": list(each.routes),
                    "starting": each.source in starting,
                    "rebalanced_with": sorted(groups.get(each.source, ())),
                }
                for each in found.sources
            ],
            "routes": []
            if found is None
            else [
                {
                    "route": each.route,
                    "change": str(each.change),
                    "keys": list(each.keys),
                    "sources": sorted(each.sources),
                    "repeats": each.repeats,
                }
                for each in found.routes
            ],
            "settings": [] if found is None else list(found.settings),
            "restart": [] if found is None else list(found.restart),
            "left_dead_letters": dict(dead_letters),
            "problems": list(problems[:_MOST_PROBLEMS]),
        }


_DRAINS, _STARTS = "reload drains ", "reload starts "
_MOVES = (ChangeKind.ADDED, ChangeKind.REMOVED, ChangeKind.RESTARTED)
"""Changes with which a member of a consumer group joins or leaves."""


def _schema_digests(loaded: Loaded) -> dict[Path, bytes]:
    """Digests of the JSON Schema files of a configuration."""
    return {file: digest_of(file) for file in schema_paths(loaded)}


def _texts(problems: Sequence[Problem]) -> list[str]:
    return [str(problem) for problem in problems if problem.severity == "error"]


def _publishes(found: Changes) -> bool:
    return any(path.startswith("targets.") for path in found.settings)


def _shared_groups(loaded: Loaded, found: Changes) -> dict[str, set[str]]:
    """Sources whose group another changed source shares, with these: a member that joins or leaves moves partitions of
    the whole group.
    """
    config = loaded.config
    moving = {each.source for each in found.sources if each.change in _MOVES}
    groups: dict[tuple[str, str], set[str]] = {}
    for name, source in config.sources.items():
        if rebalances_groups(config.brokers[source.broker]):
            groups.setdefault((source.broker, source.group), set()).add(name)
    return {
        each.source: (groups.get(_group(loaded, each.source), set()) & moving) - {each.source}
        for each in found.sources
        if each.source in config.sources and each.source not in moving
    }


def _group(loaded: Loaded, source: str) -> tuple[str, str]:
    config = loaded.config.sources[source]
    return config.broker, config.group
