"""Which files `bridge lint` looks at when none are named."""

from __future__ import annotations

from pathlib import Path

from bridge.app.composition import module_base
from bridge.config.source import Loaded


def workflow_files(loaded: Loaded) -> list[Path]:
    """Files and directories of the configuration's workflow modules. Nothing is imported.

    Raises: LookupError when a module is not beside the configuration.
    """
    base = module_base(loaded)
    found = []
    for module in loaded.config.workflows.modules:
        path = base.joinpath(*module.split("."))
        path = path if path.is_dir() else path.with_suffix(".py")
        if not path.exists():
            raise LookupError(f"module {module} of the configuration is not at {path}; name files to look at instead")
        found.append(path)
    return found
