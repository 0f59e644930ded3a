"""Input of the static analysis from a configuration: files and names."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from bridge.app.composition import module_base
from bridge.config.source import Loaded
from bridge.core.errors import Problem
from bridge.core.user_code.kinds import FunctionKind
from bridge.engines.workflows import Workflows
from bridge.lint import KnownNames, Names, examine, known_names, unknown
from bridge.lint.names import ORCHESTRATION, RULE, TARGET


def workflow_files(loaded: Loaded) -> list[Path]:
    """Files and directories of the configuration's workflow modules. Nothing is imported.

    Raises: LookupError when a module is not beside the configuration.
    """
    found = []
    for module in loaded.config.workflows.modules:
        path = _beside(loaded, module)
        if path is None:
            expected = module_base(loaded).joinpath(*module.split(".")).with_suffix(".py")
            raise LookupError(
                f"module {module} of the configuration is not at {expected}; name files to look at instead"
            )
        found.append(path)
    return found


def names(loaded: Loaded) -> Names:
    """Names that the configuration declares, with the available files of its workflow modules."""
    files = [path for module in loaded.config.workflows.modules if (path := _beside(loaded, module)) is not None]
    return Names(loaded.config.targets, loaded.config.workflows.external, files)


def unknown_orchestration(loaded: Loaded, name: str) -> str | None:
    """Warning about an orchestration that no worker of the configuration has; None if one has it or may have it.

    The source of the workflow modules is read, and nothing is imported.
    """
    modules, external = loaded.config.workflows.modules, loaded.config.workflows.external
    declared = names(loaded)
    if len(declared.files) < len(modules) or not (modules or external):
        return None  # other workers may have any name
    known = known_names(declared)
    if known.has(ORCHESTRATION, name):
        return None
    near = difflib.get_close_matches(name, [*known.names[ORCHESTRATION], *external], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"no module under `workflows` has an orchestration {name}: {meant}The instance is PENDING until a worker has it"
    )


def unknown_names(loaded: Loaded, workflows: Workflows | None) -> list[Problem]:
    """Problems of constant names in the workflow modules that exist nowhere.

    workflows: registered functions of the modules; None when they were not imported; their source is analysed then.
    """
    declared = names(loaded)
    if workflows is None:
        found = [one for one in examine(declared.files, declared).findings if one.rule == RULE]
    else:
        imported = [path for module in loaded.config.workflows.modules if (path := _imported(module)) is not None]
        known = {
            TARGET: frozenset(declared.targets),
            ORCHESTRATION: frozenset(workflows.orchestrators),
            FunctionKind.ACTIVITY.value: frozenset(workflows.activities),
            FunctionKind.ENTITY.value: frozenset(workflows.entities),
        }
        found = unknown(imported, KnownNames(known, workflows.external))
    return [Problem(one.file, one.line, one.column, "", f"{one.what}; {one.remedy}", code="W001") for one in found]


def _beside(loaded: Loaded, module: str) -> Path | None:
    path = module_base(loaded).joinpath(*module.split("."))
    path = path if path.is_dir() else path.with_suffix(".py")
    return path if path.exists() else None


def _imported(module: str) -> Path | None:
    """File or directory of an imported module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return None
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path
