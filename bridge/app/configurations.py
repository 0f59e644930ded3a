"""Earlier versions of the configuration, kept in the state directory to explain decisions of their time.

`VERSION.yaml` is an effective configuration without secrets, `starts.jsonl` the starts of daemons. The number of
versions is bounded; the least recently started ones are removed.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.app import state
from bridge.config.source import Loaded, survey
from bridge.system import private

log = logging.getLogger("bridge.lineage")

DIRECTORY = "configurations"
_STARTS = "starts.jsonl"
_KEPT_STARTS = 10
"""Starts that are kept for each version, on average."""
_VERSION = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class DaemonStart:
    """Start of a daemon. at: seconds since the Unix epoch. base: directory of relative paths."""

    at: float
    version: str
    base: Path


def store(loaded: Loaded) -> None:
    """Keep the configuration of a daemon that starts. A failure is logged: the daemon runs without."""
    most = loaded.config.ops.lineage.configurations
    directory = state.state_directory(loaded) / DIRECTORY
    try:
        private.directory(directory)
        private.narrow(directory.iterdir())
        file = directory / f"{loaded.version}.yaml"
        if not file.exists():
            _write(file, loaded.effective())
        started = [*starts(loaded), DaemonStart(time.time(), loaded.version, loaded.base)]
        latest = list(dict.fromkeys(one.version for one in reversed(started)))[:most]
        started = [one for one in started if one.version in latest][-most * _KEPT_STARTS :]
        lines = (json.dumps({"at": one.at, "version": one.version, "base": str(one.base)}) for one in started)
        _write(directory / _STARTS, "".join(f"{line}\n" for line in lines))
        for other in directory.glob("*.yaml"):
            if other.stem not in latest:
                other.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the configuration cannot be kept for `bridge trace`: %s", error.strerror)


def starts(loaded: Loaded) -> Sequence[DaemonStart]:
    """Starts of daemons with this state directory, oldest first."""
    try:
        lines = (state.state_directory(loaded) / DIRECTORY / _STARTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            one = json.loads(line)
            start = DaemonStart(float(one["at"]), str(one["version"]), Path(one["base"]))
        except (ValueError, TypeError, KeyError):
            continue  # a line that another program has written
        if _VERSION.fullmatch(start.version):
            found.append(start)
    return sorted(found, key=lambda start: start.at)


def at(loaded: Loaded, moment: float) -> tuple[Loaded, DaemonStart] | None:
    """Configuration of the daemon that ran at a time, or that started next; None when it was not kept."""
    known = starts(loaded)
    earlier = [one for one in known if one.at <= moment]
    later = [one for one in known if one.at > moment]
    start = earlier[-1] if earlier else later[0] if later else None
    if start is None:
        return None
    found = _kept(loaded, start)
    return None if found is None else (found, start)


def version(loaded: Loaded, wanted: str) -> Loaded | None:
    """Configuration of a version; None when it was not kept."""
    start = next((one for one in reversed(starts(loaded)) if one.version == wanted), None)
    return None if start is None else _kept(loaded, start)


def versions(loaded: Loaded) -> frozenset[str]:
    """Versions that are kept."""
    return frozenset(file.stem for file in (state.state_directory(loaded) / DIRECTORY).glob("*.yaml"))


def _kept(loaded: Loaded, start: DaemonStart) -> Loaded | None:
    if start.version == loaded.version:
        return loaded
    file = state.state_directory(loaded) / DIRECTORY / f"{start.version}.yaml"
    found = survey([file], environ={}).loaded if file.exists() else None
    if found is None:
        return None
    document = replace(found.document, directories={}, base=start.base)
    return replace(found, started_as=start.version, base=start.base, document=document)


def _write(file: Path, content: str) -> None:
    """Replace a file in one step. Raises: OSError."""
    with private.replacing(file) as out:
        out.write(content.encode())
