"""Command line, one file per command and one room per large group of commands.

Each command parses, calls one plain function and maps its result to an exit code.
"""

from __future__ import annotations

import sys
from types import TracebackType

import click

from bridge import __version__
from bridge.cli.shared import failure
from bridge.cli.shared.command import Root

__all__ = ["main", "root"]


@click.group(
    cls=Root,
    package="bridge.cli",
    members={
        "serve": "Run the daemon: consume, route, and run workflows.",
        "worker": "Run workflows only, next to a `serve --no-worker`.",
        "status": "Show health, lag, failures, and what waits for a person.",
        "top": "Show sources live, the largest lag first.",
        "publish": "Publish messages to a configured broker.",
        "topic": "Show the messages of a topic or queue.",
        "check": "Check a configuration, without a network.",
        "doctor": "Check everything that the bridge needs, on the network and on this machine.",
        "lint": "Find code that breaks the replay of orchestrations.",
        "test": "Run the tests of the rules, without a network.",
        "tap": "Show live messages with the decisions of the rules.",
        "graph": "Print the flow of a configuration as a diagram.",
        "asyncapi": "Describe the consumed and published messages as AsyncAPI.",
        "route": "Show the commands that a message leads to, without a network.",
        "diff": "Show which messages another configuration routes differently.",
        "shadow": "Compare another configuration with the daemon, on its messages.",
        "canary": "Show and control a candidate for the rules.",
        "reload": "Make the running daemons use the changed configuration.",
        "instances": "List, inspect and control orchestrations.",
        "jobs": "Show and control actions on many instances or messages.",
        "entities": "List, inspect and signal durable entities.",
        "trace": "Show the outcome of a message, its cause and its results.",
        "dlq": "Group, show and check dead letters.",
        "early": "List, release and drop early messages.",
        "quarantine": "List, release and drop quarantined messages.",
        "sources": "List, pause and resume sources; show their lag and move their positions.",
        "limits": "Limit routes for a time.",
        "erase": "Erase a person's payloads from an engine.",
        "keys": "List, rotate and retire the keys that sign requests.",
        "tokens": "Make tokens for the API.",
        "audit": "Show changes made by people.",
        "engine": "Serve the embedded engine alone, or maintain its file.",
        "demo": "Open a shop to explore.",
        "init": "Create a project that runs at once.",
        "completion": "Print a script for the completion of a shell.",
    },
    modules={
        "check": "rules.check",
        "lint": "rules.lint",
        "test": "rules.test",
        "tap": "rules.tap",
        "graph": "rules.graph",
        "asyncapi": "rules.asyncapi",
        "route": "rules.route",
        "diff": "rules.diff",
        "shadow": "rules.shadow",
        "canary": "rules.canary",
        "reload": "rules.reload",
        "instances": "instances.commands",
        "dlq": "dlq.commands",
        "sources": "sources.commands",
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
    failure.open_standard_streams()
    root(prog_name="bridge")
