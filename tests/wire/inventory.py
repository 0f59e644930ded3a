"""Inventory of all names on the wire and on disk as JSON: `python -m tests.wire.inventory > tests/wire/inventory.json`.

Every name comes from the product itself. Python identifiers occur only when they are on the wire.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.kit.source import uncollected
from tests.wire import forms, names, source, users

FILE = Path(__file__).with_name("inventory.json")

Sections = dict[str, dict[str, list[str]]]


@uncollected()
def inventory() -> Sections:
    """Return the sections in three groups.

    `fixed` never changes, `users` changes with a note for users, `texts` with a reason.
    """
    texts = source.texts()
    registered = names.registered()
    words = {each for found in texts.values() for each in found if each.isidentifier() and each.islower()}
    tables = forms.tables()
    return {
        "fixed": {
            "commands": names.commands(),
            "entity operations": names.operations(registered, words),
            "exceptions": names.exceptions(),
            "failure types": names.failures(),
            "files": forms.files(),
            "gRPC": names.statuses(),
            "headers": forms.headers(),
            "members": forms.members(),
            "registered": sorted(registered),
            "registered by samples": names.samples(),
            "tables of the engine": tables["engine"],
            "tables of the local broker": tables["local broker"],
            "values": forms.values(),
        },
        "users": {
            "command line": users.command_line(),
            "configuration": users.configuration(),
            "control channel": users.control(),
            "environment": users.environment(),
            "exit codes": users.codes(),
            "log actions": sorted(texts["log actions"]),
            "log fields": sorted(texts["log fields"]),
            "loggers": users.loggers(),
            "metrics": users.metrics(),
            "paths": users.paths(),
            "printed": users.printed(),
            "public python": users.python(),
        },
        "texts": {
            "choices": names.words(),
            "members read": sorted(texts["members read"]),
            "members written": sorted(texts["members written"]),
            "objects": sorted(texts["objects"]),
            "patterns": names.patterns(),
            "words": sorted(texts["words"]),
        },
    }


def rendered(found: Sections) -> str:
    return json.dumps(found, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    print(rendered(inventory()), end="")
