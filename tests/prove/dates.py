"""Dates of the proofs: `python -m tests.prove.dates` checks them, `... run NAME ...` runs and records proofs.

The check exits with 1 when a proof has to run again. A run exits with the code of the first proof that fails; the
proofs before it are recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.prove import table
from tests.prove.proofs import PROOFS, ROOT, Proof, digests, overdue


def today() -> date:
    return datetime.now(UTC).date()


FIGURES = "BRIDGE_PROOF_FIGURES"
"""Environment variable with the path of the file to which a proof writes the figures of its table, as JSON."""


def recorded(names: Iterable[str], code: dict[str, dict[str, str]], figures: dict[str, Any] | None = None) -> None:
    """Record today's date for the results of these proofs.

    code: digests by proof, computed before the run. figures: by the name of the proof.
    """
    results = table.load() | (figures or {})
    dated = results.get("proofs", {}) | {name: {"date": today().isoformat(), "code": code[name]} for name in names}
    table.save(results | {"proofs": {proof.name: dated[proof.name] for proof in PROOFS if proof.name in dated}})


def missing_kafka() -> str | None:
    """Return the reason why no real Kafka broker can run here; None when one can."""
    try:
        java()
        classpath()
    except KafkaMissing as missing:
        return str(missing)
    return None


def run(proofs: Iterable[Proof]) -> int:
    for proof in proofs:
        code = digests(proof.covers)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures.json"
            command = [sys.executable, "-m", "pytest", *proof.tests]
            done = subprocess.run(command, cwd=ROOT, env=os.environ | {FIGURES: str(file)}, check=False)
            if done.returncode:
                return done.returncode
            figures = {proof.name: json.loads(file.read_text())} if file.exists() else {}
        if proof.kafka and (why := missing_kafka()) is not None:
            print(f"{proof.name}: not recorded, since it ran without a real Kafka broker ({why})")
            continue
        recorded([proof.name], {proof.name: code}, figures)
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        known = {proof.name: proof for proof in PROOFS if proof.tests}
        unknown = [name for name in arguments[1:] if name not in known]
        if unknown:
            sys.exit(f"unknown proofs: {', '.join(unknown)}; known: {', '.join(known)}")
        return run([known[name] for name in arguments[1:]] or known.values())
    results = table.load().get("proofs", {})
    found = overdue(results, PROOFS, today())
    print("\n".join(found) or "proofs: every result is recent, or stands for the code as it is")
    if missing := [proof.name for proof in PROOFS if proof.name not in results]:
        print(f"proofs without a result yet: {', '.join(missing)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
