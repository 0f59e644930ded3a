"""`bridge completion`: completion of commands, options and names in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bridge.cli.shared.command import command as make

VARIABLE = "_BRIDGE_COMPLETE"
"""Environment variable through which the script of the shell asks `bridge`; derived from its name by click."""


@make(
    "completion",
    effect="reads",
    examples="""
        eval "$(bridge completion bash)"                                    # in ~/.bashrc
        eval "$(bridge completion zsh)"                                     # in ~/.zshrc, after compinit
        bridge completion fish > ~/.config/fish/completions/bridge.fish
    """,
    exits={0: "the script was printed"},
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script with which SHELL completes commands, options, and names of the configuration.

    Names of sources, routes, engines, orchestrations and topics come from the configuration of the command line, or
    else of the directory. The script imports no workflow, and opens no connection.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "bridge", VARIABLE).source())
