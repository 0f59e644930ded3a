"""Sources that a person names."""

from __future__ import annotations

from typing import Any

import click


def unknown(options: dict[str, Any], source: str | None) -> bool:
    """Whether the configuration has no such source; says so then, with those that it has.

    Only for who has found nothing: what an earlier configuration's source has left can be listed and dropped.
    options: what `engine_options` gave.
    """
    from bridge.app.composition import load_config

    if source is None:
        return False
    known = load_config(options["config"], options["overlay"]).config.sources
    if source in known:
        return False
    click.echo(f"there is no source `{source}`; the configuration has {', '.join(sorted(known))}", err=True)
    return True
