"""`bridge init`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.shared.command import command as make


@make(
    "init",
    effect="reads",
    examples="""
        bridge init shop
        cd shop && bridge serve
    """,
    exits={0: "the project was created", 1: "the directory is not empty, or cannot be written"},
)
@click.argument("name")
def command(name: str) -> None:
    """Create a project in a new directory NAME: configuration, a workflow, tests, samples, README. It runs at once."""
    from bridge.app.scaffold import create

    try:
        written = create(name, Path())
    except ValueError as error:
        raise click.BadParameter(str(error), click.get_current_context(), param_hint="NAME") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or name} {error.strerror}") from None
    for file in written:
        click.echo(f"  {file}")
    click.echo(f"""
Next:
  cd {name}
  pip install -r requirements.txt                         # pytest, for the tests
  bridge serve                                            # in one terminal
  bridge publish requests --file samples/requested.json   # in another
  bridge instances list
  python -m pytest                                        # README.md says more""")
