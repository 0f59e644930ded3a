"""`bridge doctor`: checks of everything that the bridge needs. Nothing is changed."""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from bridge.app.check.capabilities import refusals
from bridge.app.check.configuration import inspect
from bridge.app.composition import build_broker, build_engine, read_keyring
from bridge.app.extras import needed_extras
from bridge.app.serve.topics import shared_topics
from bridge.app.state import state_directory
from bridge.brokers import factory
from bridge.brokers.base import TopicBroker
from bridge.config.insecure import insecure
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.config.model.types import format_duration
from bridge.config.source import Loaded
from bridge.core.diagnosis import AREAS, CheckAnswer, CheckVerdict, not_checked, ok, problem, warning, worst
from bridge.core.errors import BridgeError, BrokerUnavailable, ConfigError
from bridge.engines import diagnosis
from bridge.engines.remote.capabilities import Capability
from bridge.system import disk
from bridge.system.package import DISTRIBUTION, install_extra
from bridge.system.threads import in_thread

SLOW = 1.0
"""Seconds after which a running check is announced."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check. area: one of AREAS. subject, check: see `Examiner.check`."""

    area: str
    subject: str
    check: str
    verdict: CheckVerdict
    detail: str
    fix: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Results of all checks, in the order of AREAS."""

    results: tuple[CheckResult, ...]

    def count(self, verdict: CheckVerdict) -> int:
        return sum(result.verdict is verdict for result in self.results)


Notify = Callable[[str], None]
"""Receiver of progress, for a person who waits."""


class _Examiner:
    """Examiner of one area."""

    def __init__(self, area: str, seconds: float, notify: Notify) -> None:
        self.area = area
        self.seconds = seconds
        self.results: list[CheckResult] = []
        self._notify = notify

    async def check(self, subject: str, name: str, run: Callable[[], Awaitable[CheckAnswer]]) -> CheckAnswer:
        answer = await self._answer(subject, name, run)
        self.record(subject, name, answer)
        return answer

    def record(self, subject: str, name: str, answer: CheckAnswer) -> None:
        self.results.append(CheckResult(self.area, subject, name, answer.verdict, answer.detail, answer.fix))

    async def _answer(self, subject: str, name: str, run: Callable[[], Awaitable[CheckAnswer]]) -> CheckAnswer:
        announced = asyncio.get_running_loop().call_later(SLOW, self._notify, f"still checking {subject}: {name} …")
        limit = asyncio.timeout(self.seconds)
        try:
            async with limit:
                return await run()
        except TimeoutError as error:
            if not limit.expired():
                return not_checked(f"timed out: {error.strerror or error}")
            late = f"no answer within {format_duration(self.seconds)}"
            return problem(late, "check the address and the network") if name == "reachable" else not_checked(late)
        except BridgeError as error:
            return not_checked(" ".join(str(error).split()))
        except Exception as error:
            # A check must not end the others
            return not_checked(f"the check failed ({type(error).__name__}: {str(error)[:200]})")
        finally:
            announced.cancel()


async def diagnose(
    loaded: Loaded, areas: Sequence[str] = AREAS, seconds: float = 10.0, notify: Notify = print
) -> Diagnosis:
    """Check a configuration and everything that it names.

    areas: areas to check.
    seconds: time limit of each check.
    notify: receives the progress of slow checks.
    Raises: ConfigError when the configuration is not valid.
    """
    report = inspect(loaded, imports=False)
    errors = [problem for problem in report.problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    examiners = {area: [_Examiner(area, seconds, notify)] for area in AREAS}
    kept: dict[str, float] = {}
    running: list[Awaitable[None]] = []
    if "settings" in areas:
        running.append(_settings(loaded, examiners["settings"][0]))
    if "machine" in areas:
        running.append(_machine(loaded, examiners["machine"][0]))
    if "engine" in areas:
        for name in loaded.config.engines:
            examiner = _Examiner("engine", seconds, notify)
            examiners["engine"].append(examiner)
            running.append(_engine(loaded, name, examiner))
    for name, broker in loaded.config.brokers.items():
        if broker.type in areas:
            examiner = _Examiner(broker.type, seconds, notify)
            examiners[broker.type].append(examiner)
            running.append(_broker(loaded, name, examiner, kept))
    await asyncio.gather(*running)
    if "kafka" in areas:
        await _one_cluster(loaded, examiners["kafka"][0])
    if "retention" in areas:
        for source in loaded.config.sources:
            examiners["retention"][0].record(f"source {source}", "retention", _retention(loaded, source, kept))
    return Diagnosis(tuple(result for area in AREAS for each in examiners[area] for result in each.results))


# -- engines and brokers


async def _engine(loaded: Loaded, name: str, examiner: _Examiner) -> None:
    config = loaded.config.engines[name]
    engine = build_engine(loaded, name, host=False)
    if isinstance(config, EmbeddedEngineConfig):
        keys = partial(read_keyring, loaded, name)
        directory = _plain(loaded.base / config.path)
        await diagnosis.embedded(name, config, directory, keys, engine, examiner)
    else:

        def refused(lacking: Collection[Capability]) -> list[str]:
            return [each.what for each in refusals(loaded, {name: lacking})]

        await diagnosis.scheduler(name, config, engine, examiner, refused)


async def _broker(loaded: Loaded, name: str, examiner: _Examiner, kept: dict[str, float]) -> None:
    config = loaded.config.brokers[name]
    sources = {key: source for key, source in loaded.config.sources.items() if source.broker == name}
    targets = {key: target for key, target in loaded.config.targets.items() if target.broker == name}

    def resolve(field: str, value: str) -> Path:
        return _plain(loaded.resolve(("brokers", name, *(() if field == "path" else ("tls",)), field), value))

    try:
        kept.update(await factory.diagnose(name, config, resolve, sources, targets, examiner))
    except ModuleNotFoundError as error:
        remedy = install_extra(config.type)
        examiner.record(f"broker {name}", "client library", problem(f"the package {error.name} is missing", remedy))


async def _one_cluster(loaded: Loaded, examiner: _Examiner) -> None:
    """Check that no two sources read one topic in one group of a cluster that two brokers name."""
    names = [name for name, broker in loaded.config.brokers.items() if factory.is_cluster(broker)]
    if len(names) < 2:
        return

    async def compare_clusters() -> CheckAnswer:
        brokers = {name: build_broker(loaded, name) for name in names}
        try:
            for broker in brokers.values():
                await broker.start()
            topics = {name: broker for name, broker in brokers.items() if isinstance(broker, TopicBroker)}
            found = await shared_topics(loaded, topics)
        except BrokerUnavailable as error:
            return not_checked(str(error))
        finally:
            for broker in brokers.values():
                await broker.stop()
        answers = [problem(each.what, f"{each.path.partition('.topics')[0]}.group: another name") for each in found]
        return worst(answers, "no two sources share the messages of a topic")

    await examiner.check(f"brokers {', '.join(names)}", "clusters", compare_clusters)


def _plain(path: Path) -> Path:
    """Absolute path without `..`, for people. Links stay, because the checks report them."""
    return Path(os.path.normpath(path.absolute()))


def _retention(loaded: Loaded, source: str, kept: Mapping[str, float]) -> CheckAnswer:
    """Compare how long the broker can deliver a message again with how long engines recognize it."""
    config = loaded.config
    seconds = kept.get(source, config.sources[source].retention)
    if seconds is None:
        return not_checked(
            "the retention of its topics is not known",
            f"sources.{source}.retention: 7d    # as configured on the broker",
        )
    if seconds == math.inf:
        return ok("messages are kept without limit; only a person who moves the group's position delivers them again")
    answers = []
    starting = [each for each in config.routes if each.schedule is not None or each.start_or_raise is not None]
    for name in (name for route in starting if source in route.from_ for name in route.find):
        engine = config.engines.get(name)
        if engine is None:
            continue
        if engine.retention is None:
            if isinstance(engine, SchedulerEngineConfig):
                why = f"the retention policy of engine {name} is not known"
                answers.append(not_checked(why, f"engines.{name}.retention: 30d    # as set on the scheduler"))
        elif engine.retention < seconds:
            kept_for = format_duration(seconds)
            answers.append(
                warning(
                    f"engine {name} keeps finished instances for {format_duration(engine.retention)}, and the "
                    f"topic keeps messages for {kept_for}: a message read again later starts its orchestration again",
                    f"engines.{name}.retention: {kept_for}",
                )
            )
    return worst(answers, "repeated messages are recognized as long as they can be delivered")


# -- settings and the machine


async def _settings(loaded: Loaded, examiner: _Examiner) -> None:
    found = [*insecure(loaded.config, loaded.document.root, loaded.locate)]
    for each in found:
        what, _, remedy = each.what.partition("; ")
        examiner.record(f"{each.path}", "security", warning(what, remedy or each.what))
    if not found:
        examiner.record("configuration", "security", ok("no insecure setting"))


async def _machine(loaded: Loaded, examiner: _Examiner) -> None:
    for package, answer in _versions(loaded):
        examiner.record(package, "version", answer)
    directory = _plain(state_directory(loaded))
    await examiner.check(
        "state directory", "access", lambda: in_thread(partial(disk.access, directory, "ops.state_dir"))
    )
    await examiner.check("clock", "set", _clock)


async def _clock() -> CheckAnswer:
    # A clock before the release of this program is certainly wrong; others are compared with engines and brokers
    if time.time() < 1_767_225_600:
        return problem("the clock of this machine is before 2026", "chronyc makestep    # or another NTP client")
    return ok("plausible; engines and brokers compare it")


_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_SDKS = ("durabletask", "durabletask-azuremanaged", "aiokafka", "azure-servicebus", "azure-keyvault-secrets")
"""Packages whose minor versions are tested; others have a lower limit only."""


def _versions(loaded: Loaded) -> Iterator[tuple[str, CheckAnswer]]:
    """Installed versions of Python and of the SDKs that this configuration needs, compared with the tested ones."""
    yield "python", ok(".".join(map(str, sys.version_info[:3])))
    extras = {each.extra for each in needed_extras(loaded.config)}
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield DISTRIBUTION, not_checked("is not installed as a package")
        return
    seen: set[str] = set()
    for requirement in requirements:
        matched = _REQUIREMENT.fullmatch(requirement)
        if matched is None:
            continue
        package = re.sub(r"[-_.]+", "-", matched[1])
        if package not in _SDKS or package in seen:
            continue
        extra = _EXTRA.search(matched[3] or "")
        if extra is not None and extra[1] not in extras:
            continue
        seen.add(package)
        yield package, _version(package, matched[2])


def _version(package: str, tested: str) -> CheckAnswer:
    install = f"pip install '{package}{tested}'"
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return problem("is not installed", install)
    if all(_fits(installed, part) for part in tested.split(",") if part):
        return ok(f"{installed} (tested: {tested})")
    return problem(f"{installed} is not tested with this release (tested: {tested})", install)


def _fits(installed: str, condition: str) -> bool:
    operator, limit = re.match(r"\s*([<>=!~]+)\s*(.*?)\s*$", condition).groups()  # type: ignore[union-attr]  # pyproject's
    have, wanted = _numbers(installed), _numbers(limit)
    return {">=": have >= wanted, "<": have < wanted, "<=": have <= wanted, ">": have > wanted}.get(
        operator, have == wanted
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
