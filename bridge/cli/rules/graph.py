"""`bridge graph`: the flow of a configuration as a diagram."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options


@make(
    "graph",
    effect="reads",
    examples="""
        bridge graph                                    # Mermaid, for Markdown pages
        bridge graph --format svg > bridge.svg
        bridge graph --format dot | dot -Tpdf > bridge.pdf
        bridge graph --source orders
    """,
    exits={0: "the diagram was printed", 3: "the configuration is not valid"},
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "dot", "svg"]),
    default="mermaid",
    show_default=True,
    help="Form of the diagram.",
)
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only the flow of this source; repeatable.")
@config_options
def command(form: str, sources: tuple[str, ...], config: tuple[Path, ...], overlay: tuple[Path, ...]) -> None:
    """Print the flow from sources over rules and workflows to targets as a diagram.

    The command uses no network and imports no workflow. It finds the targets of workflows in their source code, as
    far as they are constant. Dashed edges are answers and dead letters.
    """
    from bridge.app.composition import load_config, require
    from bridge.app.graph import flow, svg, text

    loaded = load_config(config, overlay)
    for name in sources:
        require("source", name, loaded.config.sources)
    found = flow.flow(loaded, sources)
    write = {"mermaid": text.mermaid, "dot": text.dot, "svg": svg.svg}[form]
    click.echo(write(found), nl=False)
