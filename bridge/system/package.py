"""Installed package of the bridge: libraries of its extras, and the place that it was installed from."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "durable-bridge"

_EXTRA = re.compile(r"""\s*;\s*extra\s*==\s*['"]([^'"]+)['"]\s*$""")


def install_extra(extra: str) -> str:
    """Command that installs the libraries of an extra.

    It names the libraries, because the bridge itself may come from a checkout, a file or an index.
    """
    needed = [f"'{each}'" for each in requirements_of(extra)]
    return f"pip install {' '.join(needed)}" if needed else f"pip install '.[{extra}]' in a checkout of the bridge"


def requirements_of(extra: str) -> list[str]:
    """Requirements of an extra; none if the bridge is not installed as a package."""
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [_EXTRA.sub("", each) for each in declared if (found := _EXTRA.search(each)) and found[1] == extra]


def own_requirement() -> str:
    """Requirement that installs this bridge again.

    The checkout or file that it was installed from, while that exists; otherwise its exact version.
    """
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return DISTRIBUTION
    origin = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
    if origin.startswith("file:") and Path(unquote(urlsplit(origin).path)).exists():
        return f"{DISTRIBUTION} @ {origin}"
    return f"{DISTRIBUTION}=={installed.version}"
