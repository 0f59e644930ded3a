"""Long proofs: their tests, the code that they cover, and the maximum age of a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.prove.kills import KILLS

ROOT = Path(__file__).parents[2]

DAYS = 14
"""Age in days up to which a result stands although the code has changed since."""

_LINE = (
    "bridge/app/composition.py", "bridge/app/serve", "bridge/brokers/base.py",
    "bridge/brokers/log_partition.py", "bridge/brokers/offsets.py", "bridge/core", "bridge/pipeline",
)  # fmt: skip
"""Code on the path of every delivery, for any broker and engine."""

_WAITING = (
    "bridge/waiting", "bridge/early_messages", "bridge/quarantine", "bridge/replay", "bridge/jobs",
    "bridge/dead_letters",
)  # fmt: skip

_KILLED = (
    "bridge/engines", "bridge/sqlite_engine", *_WAITING, "bridge/workflow", "tests/prove/kills.py",
    "tests/prove/stage.py",
)  # fmt: skip


_DEATHS = "tests/engines/processes/test_random_kills.py"
_SELF_HOSTED = "tests/engines/self_hosted"


@dataclass(frozen=True, slots=True)
class Proof:
    """Proof whose result is recorded.

    command: renews the result. covers: files and folders whose change makes a result old, relative to the root. tests:
    arguments of pytest; none for a kill, which `python -m tests.prove` runs. kafka: the result counts on a real broker
    only. declared: day of declaration; the first result is due DAYS later.
    """

    name: str
    command: str
    covers: tuple[str, ...]
    tests: tuple[str, ...] = ()
    kafka: bool = False
    declared: date = date(2026, 11, 29)


def _slow(
    name: str, covers: Sequence[str], *tests: str, processes: int = 0, kafka: bool = False, without: Sequence[str] = ()
) -> Proof:
    """Create a proof of the slow tests in these folders, run by `make prove-NAME`. without: tests of other proofs."""
    parallel = ("-n", str(processes), "--dist", "loadfile") if processes else ()
    omitted = [f"--ignore={each}" for each in without]
    return Proof(name, f"make prove-{name}", (*covers, *tests), (*parallel, *omitted, "-m", "prove", *tests), kafka)


PROOFS: tuple[Proof, ...] = (
    *(
        Proof(
            f"kills/{kill.name}",
            f"python -m tests.prove {kill.name}",
            (*_LINE, f"bridge/brokers/{kill.broker}", *_KILLED, f"tests/prove/on_{kill.broker}.py"),
            kafka=kill.broker == "kafka",
        )
        for kill in KILLS
    ),
    _slow(
        "kafka", (*_LINE, "bridge/brokers/kafka", *_WAITING), "tests/brokers/kafka", "tests/app/test_doctor_kafka.py",
        processes=2, kafka=True,
    ),
    _slow(
        "servicebus", (*_LINE, "bridge/brokers/servicebus", *_WAITING), "tests/brokers/servicebus",
        "tests/servicebus", processes=2,
    ),
    _slow(
        "engine", ("bridge/engines", "bridge/sqlite_engine"), "tests/engines", "tests/sqlite_engine",
        without=(_DEATHS, _SELF_HOSTED),
    ),
    _slow("self-hosted", ("bridge/engines", _SELF_HOSTED), _SELF_HOSTED),
    _slow("workers", ("bridge/engines", "bridge/sqlite_engine"), _DEATHS),
    _slow(
        "acceptance", (*_LINE, "bridge/brokers/local", "bridge/engines", "bridge/sqlite_engine", *_WAITING,
        "bridge/workflow"), "tests/acceptance", "tests/workflow",
    ),
    _slow(
        "dead-letters", (*_LINE, *(f"bridge/brokers/{name}" for name in ("kafka", "local", "servicebus")),
        "bridge/engines", "bridge/sqlite_engine", *_WAITING, "tests/acceptance/replays.py"), "tests/replay", kafka=True,
    ),
    _slow(
        "reload", (*_LINE, "bridge/app/reload", "bridge/app/check", "bridge/config", "bridge/routing"),
        "tests/acceptance/test_reload_kill.py",
    ),
    _slow("hostile", ("bridge",), "tests/hostile", kafka=True),
    _slow("schemas", ("bridge/codecs/confluent",), "tests/codecs", "tests/registry"),
    _slow(
        "payloads",
        ("bridge/large_payloads", "bridge/engines", "bridge/sqlite_engine", "bridge/workflow"),
        "tests/large_payloads",
    ),
    _slow("upgrade", ("bridge",), "tests/upgrade"),
    _slow(
        "interop", ("bridge/engines", "bridge/sqlite_engine", "bridge/core", "docs/samples",
        "tests/engines/foreign/toolchain.py"), "tests/samples",
    ),
)  # fmt: skip


def digests(covers: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Return a digest of the contents of each covered file or folder; a missing one has an empty digest."""
    return {path: _digest(root / path) for path in covers}


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(_files(path))
    if not files:
        return ""
    hashed = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        hashed.update(f"{file.relative_to(path).as_posix()} {content}\n".encode())
    return hashed.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def overdue(results: Mapping[str, Any], proofs: Iterable[Proof], today: date, root: Path = ROOT) -> list[str]:
    """Return one sentence per proof that has to run again.

    A sentence has name, age, changes and command. results: `date` and `code` (digests) by the name of the proof. A
    result is overdue when it is older than DAYS and covered code has changed since. An unreadable result and one with a
    future date are always overdue. A proof without a result is overdue DAYS after its declaration.
    """
    found = []
    for proof in proofs:
        why = _why(results.get(proof.name), proof, today, root)
        if why is not None:
            found.append(f"proof {proof.name}: {why}. Renew it with `{proof.command}` and commit docs/guarantees.*")
    return found


def _why(result: Any, proof: Proof, today: date, root: Path) -> str | None:
    if result is None:
        waited = (today - proof.declared).days
        return f"was declared {waited} days ago and has never been recorded" if waited > DAYS else None
    try:
        age = (today - date.fromisoformat(result["date"])).days
        recorded = dict(result["code"])
    except (KeyError, TypeError, ValueError) as error:
        return f"has an unreadable result ({type(error).__name__})"
    if age < -1:
        return f"is dated {-age} days ahead"
    if age <= DAYS:
        return None
    now = digests(proof.covers, root)
    changed = sorted(path for path in now.keys() | recorded.keys() if now.get(path) != recorded.get(path))
    if not changed:
        return None
    return f"the result is {age} days old (limit {DAYS}), and since then {', '.join(changed)} changed"
