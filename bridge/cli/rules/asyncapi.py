"""`bridge asyncapi`: description of the consumed and published messages."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options
from bridge.cli.shared.output import print_json


@make(
    "asyncapi",
    effect="reads",
    examples="""
        bridge asyncapi > asyncapi.json
        bridge asyncapi --types --title Shop --api-version 2.1.0
    """,
    exits={
        0: "the document was printed",
        1: "a schema file cannot be read",
        3: "the configuration is not valid",
    },
)
@click.option("--title", default="durable-bridge", show_default=True, metavar="TEXT", help="Title of the document.")
@click.option(
    "--api-version",
    default="1.0.0",
    show_default=True,
    metavar="TEXT",
    help="Version of your messages.",
)
@click.option("--types", is_flag=True, help="Import the workflows, and describe messages by the types of their inputs.")
@config_options
def command(title: str, api_version: str, types: bool, config: tuple[Path, ...], overlay: tuple[Path, ...]) -> None:
    """Print an AsyncAPI 3.1 document of the messages that the configuration consumes and publishes.

    Channels are topics and queues of sources, targets and dead letters. Messages are the event types of rules,
    workflows and sagas, with the JSON Schemas of the configuration. The document contains no secrets.
    """
    from bridge.app.composition import load_config, load_workflows
    from bridge.app.graph.asyncapi import document

    loaded = load_config(config, overlay)
    print_json(document(loaded, title, api_version, load_workflows(loaded) if types else None))
