"""`bridge instances export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.output import print_json, say
from bridge.core.errors import BridgeError
from bridge.system import private

if TYPE_CHECKING:
    from bridge.app.operations.instances import Instances
    from bridge.engines.recording import Recording


@make(
    "export",
    effect="reads",
    examples="""
        bridge instances export order-1001 -o tests/histories/order-paid.json
        bridge instances export order-1001 | jq .events[0]
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Output file.  [default: stdout]")
@engine_options
def command(instance_id: str, output: Path | None, **engine: Any) -> None:
    """Write the whole history of an orchestration, for replay tests with `bridge.testing.replay`.

    The file contains the instance's inputs and results unchanged. Review it before you add it to a repository.
    """

    async def look(instances: Instances) -> Recording:
        return await instances.recording(instance_id)

    document = on_instances(engine, look).to_json()
    if output is None:
        print_json(document)
        return
    try:
        with private.replacing(output) as out:
            out.write(f"{json.dumps(document, indent=1)}\n".encode())
    except OSError as error:
        raise BridgeError(f"{output} cannot be written: {error.strerror}") from error
    say(f"{instance_id}: {len(document['events'])} events written to {output}")
