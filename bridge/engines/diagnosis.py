"""Checks of engines for `bridge doctor`. They start and change no instance, and create no file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.diagnosis import CheckAnswer, CheckVerdict, Examiner, not_checked, ok, problem, warning
from bridge.core.errors import EngineDenied, EngineError, EngineMisconfigured, EngineUnavailable, InstanceNotFound
from bridge.engines.base import Engine
from bridge.engines.client import PROBE_ID
from bridge.engines.embedded.address import FILE, SOCKET
from bridge.engines.keyrings import Keys
from bridge.engines.remote.capabilities import Capability
from bridge.sqlite_engine.maintenance import inspection
from bridge.system import disk
from bridge.system.threads import in_thread

ROLE = "Durable Task Data Contributor"
"""Role that the bridge needs on the task hub of a scheduler."""

_SKEW = 5.0
"""Difference of the clocks in seconds that is reported."""
_SHARE = 0.8
"""Part of a check's time that the check of a file's structure may take."""


async def embedded(
    name: str, config: EmbeddedEngineConfig, directory: Path, keys: Keys, engine: Engine, examiner: Examiner
) -> None:
    """Check an embedded engine.

    directory: of its file.
    keys: read the keys of its encryption.
    engine: connected to a daemon, not started.
    """
    subject = f"engine {name}"
    file = directory / FILE
    path = f"engines.{name}.path"

    async def reachable() -> CheckAnswer:
        pid = await in_thread(partial(inspection.holder, file))
        if pid is None:
            return ok("no daemon runs; the next `bridge serve` opens the file")
        try:
            await engine.start()
            await engine.probe()
        except Exception as error:
            return problem(
                f"process {pid} has {file} open and does not answer ({type(error).__name__})",
                f"kill -CONT {pid}    # if it is frozen; otherwise restart it",
            )
        finally:
            await engine.stop()
        return ok(f"process {pid} hosts the engine at {directory / SOCKET}")

    await examiner.check(subject, "reachable", reachable)
    await examiner.check(subject, "file", lambda: _file(file, path, keys, examiner.seconds * _SHARE))
    await examiner.check(subject, "access", lambda: in_thread(partial(disk.access, directory, path)))
    await disk.examine(subject, directory, path, examiner, file)


async def _file(file: Path, path: str, keys: Keys, seconds: float) -> CheckAnswer:
    def examine() -> CheckAnswer:
        keyring = keys()
        if not file.exists():
            return ok(f"{file} will be created at the first start")
        found = inspection.inspect(file, keyring, seconds)
        if found is None:
            return not_checked(
                f"the check of {file.stat().st_size >> 20} MiB takes longer", f"bridge engine check --path {file}"
            )
        if found:
            return problem(
                f"{file} is damaged: {'; '.join(found)}", "bridge engine restore BACKUP    # with the daemon stopped"
            )
        return ok(f"{file}, {file.stat().st_size / (1 << 20):.1f} MiB, durable (synchronous=FULL), structure is sound")

    try:
        return await in_thread(examine)
    except sqlite3.OperationalError as error:
        return not_checked(f"{file}: {error}", f"bridge engine check --path {file}")
    except sqlite3.Error as error:
        return problem(f"{file}: {error}", "bridge engine restore BACKUP    # with the daemon stopped")
    except (EngineMisconfigured, EngineUnavailable) as error:
        return problem(str(error), f"restore the file or the keys of its encryption, or name another `{path}`")
    except OSError as error:
        return problem(f"{file}: {error.strerror}", f"give this user access, or name another `{path}`")


async def scheduler(
    name: str,
    config: SchedulerEngineConfig,
    engine: Engine,
    examiner: Examiner,
    refused: Callable[[Collection[Capability]], Sequence[str]],
) -> None:
    """Check a scheduler.

    engine: not started.
    refused: rules that it cannot keep, by the capabilities that it lacks.
    """
    try:
        await _SchedulerChecks(name, config, engine, refused).run(f"engine {name}", examiner)
    finally:
        await engine.stop()


class _SchedulerChecks:
    """Checks of one scheduler. See `scheduler`."""

    def __init__(
        self,
        name: str,
        config: SchedulerEngineConfig,
        engine: Engine,
        refused: Callable[[Collection[Capability]], Sequence[str]],
    ) -> None:
        self._config = config
        self._engine = engine
        self._refused = refused
        self._setting = f"engines.{name}"
        self._denied: str | None = None
        """Refusal of the first read; None when it was allowed."""
        self._hub = ok(f"task hub {config.task_hub}")

    async def run(self, subject: str, examiner: Examiner) -> None:
        """Make the checks in order. A failed one leaves out those that need it."""
        checks = {"role": self._role, "capabilities": self._capabilities, "clock": self._clock}
        found = await examiner.check(subject, "reachable", self._reachable)
        if found.verdict is not CheckVerdict.OK:
            for check in ("task hub", *checks):
                examiner.record(subject, check, not_checked("the engine cannot be reached"))
            return
        examiner.record(
            subject, "task hub", self._hub if self._denied is None else not_checked(f"the role {ROLE} is missing")
        )
        for check, run in checks.items():
            if self._hub.verdict is CheckVerdict.OK:
                await examiner.check(subject, check, run)
            else:
                examiner.record(subject, check, not_checked(self._hub.detail))

    @property
    def _resource(self) -> str:
        """Name of the scheduler in Azure."""
        host = self._config.endpoint.partition("://")[2] or self._config.endpoint
        return host.partition(".")[0].partition(":")[0]

    async def _reachable(self) -> CheckAnswer:
        config = self._config
        try:
            await self._engine.start()
            await self._engine.probe()
        except EngineDenied as error:
            self._denied = str(error)
        except EngineMisconfigured as error:
            if "task hub" not in str(error):
                return problem(str(error), f"correct `{self._setting}`")
            create = (
                "az durabletask taskhub create --resource-group GROUP "
                f"--scheduler-name {self._resource} --name {config.task_hub}\nor correct `{self._setting}.task_hub`"
            )
            self._hub = problem(f"no task hub {config.task_hub}", create)
        except EngineError as error:
            emulator = "    # or start the emulator" if config.endpoint.startswith("http://") else ""
            return problem(str(error), f"correct `{self._setting}.endpoint`, or the network{emulator}")
        return ok(self._engine.description)

    async def _role(self) -> CheckAnswer:
        grant = (
            f'az role assignment create --role "{ROLE}" --assignee PRINCIPAL_ID --scope /subscriptions/SUBSCRIPTION/'
            f"resourceGroups/GROUP/providers/Microsoft.DurableTask/schedulers/{self._resource}/"
            f"taskHubs/{self._config.task_hub}"
        )
        if self._denied is not None:
            return problem(f"{self._denied}: the role {ROLE} is missing", grant)
        try:
            # Purging an instance that cannot exist needs the right to write, and changes nothing
            await self._engine.client.purge_orchestration(PROBE_ID, recursive=False)
        except InstanceNotFound:
            pass
        except EngineDenied as error:
            return problem(f"reading is allowed, writing is not ({error}): the role {ROLE} is missing", grant)
        return ok("reading and writing are allowed")

    async def _capabilities(self) -> CheckAnswer:
        lacking = self._engine.client.lacking
        if problems := self._refused(lacking):
            return problem("; ".join(problems), "change these rules, or name another engine in them")
        if lacking:
            return warning(
                f"the engine lacks {', '.join(sorted(lacking))}; no rule needs them, but some commands do",
                "docs/self-hosted-engines.md#other-self-hosted-engines",
            )
        return ok(", ".join(Capability))

    async def _clock(self) -> CheckAnswer:
        sent = time.time()
        there = await self._engine.client.server_time()
        if there is None:
            return not_checked("the engine does not tell its time")
        # The date has whole seconds, and was written between request and answer
        ahead = max(sent - there - 1, there - time.time(), 0.0)
        if ahead < _SKEW:
            return ok(f"differs by less than {_SKEW:.0f} s")
        return warning(
            f"this clock and the engine's differ by {ahead:.0f} s: delays and expiries are wrong by as much",
            "chronyc makestep    # or correct the clock with the NTP client of this machine",
        )
