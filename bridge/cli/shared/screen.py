"""Screens of `bridge status` and `bridge top`: lines and tables of a status, and their renewal on a terminal."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared.output import WIDE, clean, field_lines, kept_whole, local_time
from bridge.cli.shared.parameters import OUTCOMES
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress
    from bridge.ops.status import StatusDocument

_STATUSES = ("RUNNING", "PENDING", "SUSPENDED", "COMPLETED", "FAILED", "TERMINATED")
_NUMBERS = frozenset(
    {
        "FOR",
        "LAG",
        "AGE",
        "OLDEST",
        "POSITION",
        "END",
        "FROM",
        "TO",
        "READ AGAIN",
        "SKIPPED",
        "OLDER",
        "IN/s",
        "OUT/s",
        "IN FLIGHT",
        "RETRYING",
        *_STATUSES,
    }
    | {outcome.upper().replace("_", " ") for outcome in OUTCOMES}
)
"""Columns whose cells are aligned to the right."""
_WHOLE = _NUMBERS | {"STATE", "POSITION"}
"""Columns whose cells are folded last."""
_BAD = frozenset({"dead", "stuck", "held", "probing", "away", "incompatible", "orphaned"})
_EXPLAINED = _BAD | {"paused", "throttled"}
"""States of a source whose detail is shown. That of `consuming` repeats the lag."""


@dataclass(frozen=True, slots=True)
class Table:
    """Table of a screen."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Lines = Sequence[str | Table]


def status_of(
    remotes: Sequence[DaemonAddress], config: tuple[Path, ...], overlay: tuple[Path, ...]
) -> Callable[[], StatusDocument]:
    """Function that asks for the status. Raises: ConfigError, for a configuration that is not valid."""
    import asyncio

    from bridge.app.composition import load_config
    from bridge.app.status import by_address, by_configuration

    if remotes:
        return lambda: asyncio.run(by_address(remotes))
    loaded = load_config(config, overlay)
    return lambda: asyncio.run(by_configuration(loaded))


# -- content


def age(seconds: float | None) -> str:
    """Age for a person, `?` where it is unknown."""
    from bridge.ops.status import age

    return "?" if seconds is None else age(seconds)


def summary_lines(document: StatusDocument) -> list[str]:
    """Lines about the daemons."""
    lines = []
    if document["asked"]:
        answered = plural(document["answered"], "daemon")
        if document["answered"] < document["asked"]:
            answered = f"partial: {document['answered']} of {plural(document['asked'], 'daemon')} answered"
        problems = document["problems"]
        lines.append(f"{answered}; {plural(len(problems), 'problem') if problems else 'nothing needs a person'}")
    else:
        lines.append("no daemon answers; this is what the engine and the broker know (--url asks a daemon elsewhere)")
    for daemon in document["daemons"]:
        if daemon["answered"]:
            ready = "ready" if daemon["ready"] else "not ready"
            config = daemon["config"]
            lines.append(
                f"  {daemon['id']}  {daemon['command']}  {daemon['phase']}, {ready}, up {age(daemon['seconds'])}"
                f"  configuration {config['version']} since {local_time(config['since'])}  version {daemon['version']}"
            )
    versions = {each["config"]["version"] for each in document["daemons"] if each["answered"]}
    if len(versions) > 1:
        lines.append(f"  {len(versions)} configurations are in use")
    return lines


def problem_lines(document: StatusDocument) -> list[str]:
    """Lines that need a person, each with its next command."""
    return (
        ["", *(f"! {local_time(each['text'])}. Next: {each['next']}" for each in document["problems"])]
        if document["problems"]
        else []
    )


def status_tables(document: StatusDocument) -> list[str | Table]:
    """Tables of a status."""
    return [
        *engine_table(document["engines"]),
        *job_table(document["engines"]),
        *component_table(document["components"]),
        *source_table(document, document["sources"]),
        *limit_table(document.get("limits", ())),
        *instance_table(document["engines"]),
        *version_table(document["engines"]),
        *saga_table(document["engines"]),
    ]


def engine_table(engines: Sequence[StatusDocument]) -> list[str | Table]:
    """Engines with their waiting messages."""
    rows = [
        (
            engine["name"],
            engine["state"],
            age(engine["seconds"]),
            "yes" if engine["durable"] else "NO",
            _waiting(engine["early"]),
            "; ".join(_quarantined(each) for each in engine["quarantined"] or ()) or _waiting(engine["early"], "0"),
            engine["detail"],
        )
        for engine in engines
    ]
    return ["", Table(("ENGINE", "STATE", "FOR", "DURABLE", "EARLY", "QUARANTINED", "DETAIL"), rows)] if rows else []


def job_table(engines: Sequence[StatusDocument]) -> list[str | Table]:
    """Unfinished jobs."""
    rows = [
        (
            job["job"], job["kind"], job["state"], f"{job['ended']:,} of {job['selected']:,}", f"{job['failed']:,}",
            job["why"],
        )
        for engine in engines
        for job in engine.get("jobs") or ()
    ]  # fmt: skip
    return ["", Table(("JOB", "KIND", "STATE", "ITEMS", "FAILED", "DETAIL"), rows)] if rows else []


def component_table(components: Sequence[StatusDocument]) -> list[str | Table]:
    """Other parts that are not ready."""
    rows = [
        (each["kind"], each["name"], each["state"], age(each["seconds"]), each["detail"])
        for each in components
        if each["state"] in _BAD
    ]
    return ["", Table(("PART", "ENGINE", "STATE", "FOR", "DETAIL"), rows)] if rows else []


def limit_table(limits: Sequence[StatusDocument]) -> list[str | Table]:
    """Temporary limits of routes, each with the command that ends it."""
    rows = [
        (
            each["route"],
            "" if each["running"] is None else f"{each['running']:,}",
            "" if each["rate"] is None else f"{each['rate']:g}/s",
            age(max(0.0, each["seconds_left"])),
            each["by"],
            f"bridge limits clear {each['route']}",
        )
        for each in limits
    ]
    return ["", Table(("LIMITED ROUTE", "RUNNING", "RATE", "LEFT", "BY", "NEXT"), rows)] if rows else []


def _source_detail(document: StatusDocument, source: StatusDocument) -> str:
    from bridge.ops.status import away_engines

    if engines := away_engines(document, source):
        return f"by {', '.join(f'engine {each}' for each in engines)}"
    return local_time(source["detail"]) if source["state"] is None or source["state"] in _EXPLAINED else ""


def source_table(document: StatusDocument, sources: Sequence[StatusDocument]) -> list[str | Table]:
    """Sources with their lag, rates and dead letters since the start. document: has the engines that hold them."""
    rows = [
        (
            source["name"],
            source["state"] or "?",
            age(source["seconds"]),
            _number(source["lag"]),
            age(source["oldest_seconds"]),
            _rate(source["received_per_second"]),
            _rate(source["settled_per_second"]),
            _number(source["in_flight"]),
            _number(source["retrying"]),
            counted(source["dead_letters"]),
            _source_detail(document, source),
        )
        for source in sources
    ]
    columns = (
        "SOURCE", "STATE", "FOR", "LAG", "OLDEST", "IN/s", "OUT/s", "IN FLIGHT", "RETRYING", "DEAD LETTERS", "DETAIL",
    )  # fmt: skip
    return ["", Table(columns, rows)] if rows else []


def instance_table(engines: Sequence[StatusDocument]) -> list[str | Table]:
    """Existing instances by orchestration and status."""
    return _matrix(engines, "instances", "orchestration", "status", _STATUSES, "ORCHESTRATION")


def version_table(engines: Sequence[StatusDocument]) -> list[str | Table]:
    """Unfinished instances by orchestration and version."""
    several = len(engines) > 1
    found: dict[tuple[str, str], list[str]] = {}
    for engine in engines:
        for row in (engine["counts"] or {}).get("versions", ()):
            found.setdefault((row["orchestration"], engine["name"]), []).append(
                f"{row['version']}: {row['count']:,} left"
            )
    rows = [(name, *((engine,) if several else ()), ", ".join(each)) for (name, engine), each in sorted(found.items())]
    columns = ("ORCHESTRATION", *(("ENGINE",) if several else ()), "UNFINISHED BY VERSION")
    return ["", Table(columns, rows)] if rows else []


def saga_table(engines: Sequence[StatusDocument]) -> list[str | Table]:
    """Sagas that ended today, by outcome."""
    return _matrix(engines, "sagas_today", "saga", "outcome", OUTCOMES, "SAGA (ended today)")


def _matrix(
    engines: Sequence[StatusDocument], member: str, name: str, word: str, words: Sequence[str], title: str
) -> list[str | Table]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for engine in engines:
        for row in (engine["counts"] or {}).get(member, ()):
            if not row[name].startswith("bridge."):
                counts = found.setdefault((row[name], engine["name"]), {})
                counts[row[word]] = counts.get(row[word], 0) + row["count"]
    shown = [each for each in words if any(each in counts for counts in found.values())]
    several = len(engines) > 1
    columns = (title, *(("ENGINE",) if several else ()), *(each.upper().replace("_", " ") for each in shown))
    rows = [
        (first, *((engine,) if several else ()), *(_number(counts.get(each, 0)) for each in shown))
        for (first, engine), counts in sorted(found.items())
    ]
    return ["", Table(columns, rows)] if rows else []


def counted(counts: Mapping[str, int] | None) -> str:
    """Sum of counts by word, with the words."""
    if counts is None:
        return "?"
    if not any(counts.values()):
        return "0"
    listed = ", ".join(
        f"{word} {count:,}" for word, count in sorted(counts.items(), key=lambda each: -each[1]) if count
    )
    return f"{sum(counts.values()):,} ({listed})"


def _waiting(early: StatusDocument | None, otherwise: str | None = None) -> str:
    if early is None:
        return "?"
    if otherwise is not None or not early["messages"]:
        return otherwise or "0"
    return f"{early['messages']:,} ({age(early['oldest_seconds'])})"


def _quarantined(keys: StatusDocument) -> str:
    oldest = age(keys["oldest_seconds"])
    return f"{keys['source']}: {plural(keys['keys'], 'key')}, {plural(keys['messages'], 'message')} ({oldest})"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    return "?" if value is None else f"{value:,.1f}"


# -- screen


class Screen:
    """Writer of lines and tables on standard output. On a terminal tables fit its width; elsewhere nothing is cut."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.can_move = self.is_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "")
        """True where the cursor can be moved."""

    def show(self, lines: Lines) -> None:
        """Write the lines once."""
        click.echo("\n".join(self._rendered(lines)))

    def redraw(self, lines: Lines) -> None:
        """Write the lines over the ones before: in place on a terminal, else below them."""
        rendered = self._rendered(lines)
        if not self.can_move:
            click.echo("\n".join((*rendered, "")))
            return
        width, height = shutil.get_terminal_size()
        # Lines with colours are of tables, which fit
        rendered = [
            part
            for line in rendered
            for part in ([line] if len(line) <= width or "\x1b" in line else textwrap.fill(line, width).split("\n"))
        ]
        if len(rendered) > height - 1:
            more = len(rendered) - (height - 2)
            rendered = [*rendered[: height - 2], f"... {plural(more, 'more line')}"]
        # One write, and each line is cleared behind its text: nothing flickers
        click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in rendered) + "\x1b[J", nl=False)

    def open(self) -> None:
        """Begin on an empty screen of its own."""
        if self.can_move:
            click.echo("\x1b[?1049h\x1b[?25l", nl=False)

    def close(self) -> None:
        """Show the screen of before again."""
        if self.can_move:
            click.echo("\x1b[?1049l\x1b[?25h", nl=False)

    def _rendered(self, lines: Lines) -> list[str]:
        width = shutil.get_terminal_size().columns if self.is_terminal else WIDE
        found: list[str] = []
        for line in lines:
            if isinstance(line, Table):
                found += self._table(line, width)
            else:
                # A long id is copied whole: the terminal wraps it
                text = textwrap.fill(clean(line), width, break_on_hyphens=False, break_long_words=False)
                found += text.split("\n")
        return found

    def _table(self, table: Table, width: int) -> list[str]:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        used = [
            at for at, column in enumerate(table.columns) if column != "DETAIL" or any(row[at] for row in table.rows)
        ]
        drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        shown = [[clean(row[at]) for at in used] for row in table.rows]
        names = [table.columns[at] for at in used]
        whole = kept_whole(names, shown, set(names) - _WHOLE, width)
        if whole is None:
            return field_lines(names, shown)
        for column in names:
            right = "right" if column in _NUMBERS else "left"
            drawn.add_column(column, overflow="fold", justify=right, no_wrap=column in whole)  # type: ignore[arg-type]  # a literal
        for row in table.rows:
            drawn.add_row(*(Text(clean(row[at]), "bold red" if row[at] in _BAD else "") for at in used))
        target = io.StringIO()
        plain = os.environ.get("NO_COLOR") or not self.can_move
        console = Console(
            file=target,
            width=width,
            highlight=False,
            emoji=False,
            force_terminal=self.is_terminal,
            color_system=None if plain else "auto",
            legacy_windows=False,
        )
        console.print(drawn)
        return [line.rstrip() for line in target.getvalue().splitlines()]


def refreshed(
    ask: Callable[[], StatusDocument],
    lines: Callable[[StatusDocument], Lines],
    interval: float,
    *,
    count: int,
    as_json: bool = False,
) -> int:
    """Show a status again every `interval` seconds until Ctrl-C, at most `count` times (0: without limit); return 0."""
    screen = Screen()
    shown = 0
    if not as_json and count != 1:
        screen.open()
    try:
        while True:
            document = ask()
            if as_json:
                click.echo(json.dumps(document))
                sys.stdout.flush()
            elif count == 1:
                screen.show(lines(document))
            else:
                screen.redraw([f"{local_time(document['time'])}  (Ctrl-C ends)", *lines(document)])
            shown += 1
            if shown == count:
                return 0
            time.sleep(interval)
    except KeyboardInterrupt:
        return 0
    finally:
        if not as_json and count != 1:
            screen.close()
