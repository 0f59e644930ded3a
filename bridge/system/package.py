"""Installed package of the bridge: libraries of its extras, and the place that it was installed from."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "durable-bridge"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
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
    """Requirement that installs this bridge again, with the extras whose libraries are here.

    The checkout or file that it was installed from, while that exists; otherwise its exact version.
    """
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return DISTRIBUTION
    origin = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
    if origin.startswith("file:") and Path(unquote(urlsplit(origin).path)).exists():
        return f"{DISTRIBUTION}{_extras()} @ {origin}"
    return f"{DISTRIBUTION}{_extras()}=={installed.version}"


def _extras() -> str:
    """Extras of which every library is installed, as they stand in a requirement."""
    declared = {found[1] for each in metadata.requires(DISTRIBUTION) or [] if (found := _EXTRA.search(each))}
    complete = sorted(extra for extra in declared if all(map(_is_installed, requirements_of(extra))))
    return f"[{','.join(complete)}]" if complete else ""


def _is_installed(requirement: str) -> bool:
    name = _NAME.match(requirement)
    try:
        return name is not None and bool(metadata.version(name[0]))
    except metadata.PackageNotFoundError:
        return False
