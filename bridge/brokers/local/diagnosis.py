"""Checks of a local broker for `bridge doctor`. No file is created, no lock taken, no record read."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from bridge.brokers.base import OUTAGE
from bridge.brokers.local.database import FILE, SCHEMA_VERSION, readable_address
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.model.types import format_duration
from bridge.core.diagnosis import CheckAnswer, Examiner, ok, problem, warning
from bridge.core.words import plural
from bridge.system import disk
from bridge.system.threads import in_thread


async def diagnose(
    name: str, config: LocalBrokerConfig, directory: Path, sources: Mapping[str, SourceConfig], examiner: Examiner
) -> dict[str, float]:
    """Check a local broker. directory: place of its log.

    Returns the retention in seconds of each source's messages.
    """
    subject, path = f"broker {name}", f"brokers.{name}.path"

    async def retention() -> CheckAnswer:
        kept = config.retention
        if kept is None:
            return ok("messages are kept without limit")
        if kept < OUTAGE:
            return warning(
                f"messages are kept for {format_duration(kept)}: a longer outage loses messages",
                f"brokers.{name}.retention: 7d",
            )
        return ok(f"messages are kept for {format_duration(kept)}")

    await examiner.check(subject, "file", lambda: in_thread(partial(_file, directory / FILE, path)))
    await examiner.check(subject, "access", lambda: in_thread(partial(disk.access, directory, path)))
    await disk.examine(subject, directory, path, examiner, directory / FILE)
    await examiner.check(subject, "retention", retention)
    return dict.fromkeys(sources, math.inf if config.retention is None else config.retention)


def _file(file: Path, path: str) -> CheckAnswer:
    if not file.exists():
        return ok(f"{file} will be created at the first start or publish")
    try:
        with closing(sqlite3.connect(readable_address(file), uri=True)) as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            topics = connection.execute("SELECT count(*) FROM topics").fetchone()[0] if version else 0
    except sqlite3.Error as error:
        return problem(
            f"{file}: {error}", f"stop all processes that use it and restore a backup, or name another `{path}`"
        )
    if version > SCHEMA_VERSION:
        return problem(
            f"{file} was written by a newer version of the bridge (schema {version}, this one knows {SCHEMA_VERSION})",
            f"install that version of the bridge, or name another `{path}`",
        )
    return ok(f"{file}, {plural(topics, 'topic')}")
