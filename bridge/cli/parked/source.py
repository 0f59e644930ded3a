"""Check of the source that a command names."""

from __future__ import annotations

from typing import Any

import click


def unknown(options: dict[str, Any], source: str | None) -> bool:
    """True if the configuration has no such source. Prints an error that lists the existing ones.

    Call this only if nothing was found: messages left by a source of an earlier configuration can be listed and
    dropped.
    options: values of `engine_options`.
    """
    from bridge.app.composition import load_config

    if source is None:
        return False
    known = load_config(options["config"], options["overlay"]).config.sources
    if source in known:
        return False
    click.echo(f"there is no source `{source}`; the configuration has {', '.join(sorted(known))}", err=True)
    return True
