"""Command line, one file per command.

Each command parses, calls one plain function and maps its result to an exit code.
"""

from __future__ import annotations

import sys
from types import TracebackType

import click

from bridge import __version__
from bridge.cli.command import Root

__all__ = ["main", "root"]


@click.group(
    cls=Root,
    package="bridge.cli",
    members={
        "serve": "Run the daemon: consume, route, and run workflows.",
        "worker": "Run workflows only, beside a `serve --no-worker`.",
        "publish": "Put messages on a configured broker.",
        "topic": "Show what lies on a topic or queue.",
        "check": "Find every problem of a configuration, without a network.",
        "lint": "Find what breaks orchestrators on replay.",
        "route": "Show what a message would lead to, without a network.",
        "instances": "See and steer orchestrations.",
        "entities": "See and signal durable entities.",
        "trace": "Show which message led to which instance and result.",
        "early": "See, release and drop messages that wait for their instance.",
        "quarantine": "See, release and drop messages of quarantined keys.",
        "sources": "See and end limits of dead letters.",
        "erase": "Remove a person's payloads from an engine.",
        "keys": "See and rotate the keys that bind answers to requests.",
        "audit": "Show who changed what.",
        "engine": "Serve the embedded engine alone; check, compact and export its file.",
        "init": "Make a project that runs at once.",
    },
    replaced={"parked": "`bridge early` or `bridge quarantine`"},
    examples="""
        bridge init shop && cd shop && bridge serve
        bridge publish orders --file samples/order.json
        bridge instances list
    """,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="bridge", message="%(prog)s %(version)s")
def root() -> None:
    """Turn messages from brokers into calls on durable workflows, by rules in configuration files."""


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from bridge.ops.tracebacks import report

    report(kind, error, trace)


def main() -> None:
    """Entry point of `bridge`."""
    sys.excepthook = _report_bug
    root(prog_name="bridge")
