"""`bridge tokens`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.parameters import AT

if TYPE_CHECKING:
    from bridge.ops.access import Role


@click.group(
    "tokens",
    cls=BridgeGroup,
    members={"new": "Make a token for the API."},
    examples="""
        bridge tokens new ada --role operator >> tokens
    """,
)
def command() -> None:
    """Make tokens for the API on the ops port.

    The file `ops.http.access.tokens` has one line for each token. Remove a line to revoke its token; daemons read a
    changed file at once.
    """


@make(
    "new",
    effect="reads",
    examples="""
        bridge tokens new ada --role operator >> tokens
        bridge tokens new ci --role reader --until 2027-01-01T00:00:00Z >> tokens
        bridge tokens new auditor --role reader --payloads >> tokens 2> token.txt
    """,
)
@click.argument("name")
@click.option("--role", type=click.Choice(("reader", "operator", "admin")), required=True, help="Rights of the token.")
@click.option("--payloads", is_flag=True, help="Also the right to read payloads.")
@click.option("--until", type=AT, metavar="TIME", help="End of the token, RFC 3339.  [default: none]")
def new(name: str, role: Role, payloads: bool, until: datetime | None) -> None:
    """Make a token: its line for the file on standard output, the token itself on standard error.

    The line has the SHA-256 of the token, which is random and has 256 bits. The token is shown only now.
    """
    from bridge.ops.access import new_token, token_line

    token = new_token()
    try:
        line = token_line(token, name, role, payloads, until)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    click.echo(line)
    click.echo(token, err=True)


command.add_command(new)
