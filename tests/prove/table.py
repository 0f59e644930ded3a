"""Tables of docs/guarantees.md, generated from the results of `make prove` in docs/guarantees.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.prove.kills import KILLS
from tests.prove.score import Score

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "guarantees.md"
RESULTS = ROOT / "docs" / "guarantees.json"
_HEAD = (
    "| Promise | Broker | Fault | Test of more variants | Sent | Lost | Doubled | Out of order "
    "| Loop: lost | doubled | out of order |"
)
_ATTACKS = (
    "| Broker | Attack | Honest messages | Lost | Executed twice | p99, own topic | p99, shared topic "
    "| Last one after the attack | Memory above idle | Slowest `/healthz` |"
)
_BROKERS = {"kafka": "Kafka", "servicebus": "Service Bus, test server"}
BEGIN, END = "<!-- begin: {} -->\n", "<!-- end: {} -->\n"


def record(kafka: str | None, scores: dict[str, dict[str, Score]]) -> dict[str, Any]:
    """Return the results to store, by kill and variant.

    kafka: description of the broker; None when no Kafka kill ran.
    """
    return ({} if kafka is None else {"broker": kafka}) | {
        "kills": {
            name: {
                variant: {
                    "sent": one.sent, "lost": one.lost, "doubled": one.doubled, "out_of_order": one.out_of_order,
                }
                for variant, one in variants.items()
            }
            for name, variants in scores.items()
        },
    }  # fmt: skip


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def save(results: dict[str, Any]) -> None:
    """Save the results and regenerate the tables; kills that did not run keep their results."""
    if RESULTS.exists():
        before = load()
        known = before["kills"] | results["kills"]
        results = before | results | {"kills": {kill.name: known[kill.name] for kill in KILLS if kill.name in known}}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), results))


def rewritten(text: str, results: dict[str, Any]) -> str:
    """Return the document with regenerated tables."""
    tables = {"kills": rendered(results), "proofs": rendered_dates(results), "hostile": rendered_attacks(results)}
    for name, rows in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{rows}{end}{after}"
    return text


def rendered(results: dict[str, Any]) -> str:
    rows = [_HEAD, "|---" * 11 + "|"]
    for kill in KILLS:
        bridge, hand_written = (results["kills"][kill.name][variant] for variant in ("bridge", "hand-written"))
        ours = " | ".join(str(bridge[what]) for what in ("lost", "doubled", "out_of_order"))
        theirs = " | ".join(str(hand_written[what]) for what in ("lost", "doubled", "out_of_order"))
        rows.append(
            f"| {kill.promise} | {_BROKERS[kill.broker]} | {kill.breaks} | `{kill.test}` "
            f"| {bridge['sent']} | {ours} | {theirs} |"
        )
    return "\n".join(rows) + "\n"


def rendered_dates(results: dict[str, Any]) -> str:
    """Render the date of the last run of each proof; for the kills, of the oldest."""
    dates: dict[str, list[str]] = {}
    for name, result in results["proofs"].items():
        dates.setdefault(f"prove-{name}" if "/" not in name else "prove", []).append(result["date"])
    rows = ["| Proof | Last run |", "|---|---|"]
    rows += [f"| `make {command}` | {min(found)} |" for command, found in dates.items()]
    return "\n".join(rows) + "\n"


def rendered_attacks(results: dict[str, Any]) -> str:
    """Render the figures of the attack on each broker."""
    rows = [
        _ATTACKS,
        "|---" * 10 + "|",
    ]
    for name, found in results.get("hostile", {}).items():
        rows.append(
            f"| {name} | 2 x {found['seconds']:g} s | {found['sent']} | {found['lost']} | {found['doubled']} "
            f"| {found['own p99']:.2f} s | {found['shared p99']:.2f} s | {found['catch up']:.1f} s "
            f"| {found['above idle MiB']} MiB | {found['healthz']:.2f} s |"
        )
    return "\n".join(rows) + "\n"
