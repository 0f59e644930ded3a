"""Loader of the configuration: reads files and overlays, and returns one checked value with positions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bridge.config import booleans, schema_files
from bridge.config.checks import Checks
from bridge.config.model.bridge import BridgeConfig
from bridge.config.model_fields import keys_at
from bridge.config.partial_config import partial_config
from bridge.config.saga_checks import check_sagas
from bridge.config.translation import REQUIRED, suggestion, translate, unknown_key
from bridge.config.yaml.document import read
from bridge.config.yaml.interpolation import interpolate
from bridge.config.yaml.merge import DEFAULTS, apply_defaults, expand, join, overlay
from bridge.config.yaml.node import ALIASES, FilePosition, MappingNode, ScalarNode, find, key_mark, place
from bridge.config.yaml.rendering import masked, render
from bridge.config.yaml.scalars import FileSuppression
from bridge.core.errors import ConfigError, ConfigPath, Problem

_HELP = "name a file or a directory, or create a project with `bridge init NAME`"
_OVERLAY_HELP = "name the file of the overlay, relative to the current directory"

SUFFIXES = (".yaml", ".yml")
"""Suffixes of the files that are read in a directory."""


@dataclass(frozen=True, slots=True)
class MergedDocument:
    """Merged document with the places of its values.

    suppressions: comments of all files that suppress warnings of `bridge check`.
    """

    root: MappingNode
    directories: Mapping[str, Path]
    base: Path
    suppressions: tuple[FileSuppression, ...] = ()

    def locate(self, path: ConfigPath, what: str) -> Problem:
        """Create a problem at a path. Its place is that of the path, or of the nearest parent that is written."""
        words = tuple(ALIASES.get(part, part) if isinstance(part, str) else part for part in path)
        if words and isinstance(words[-1], int) and isinstance(find(self.root, words[:-1]), ScalarNode):
            words = words[:-1]  # a list of one, written as its member
        return place(self.root, words).problem(words, what)

    def resolve(self, path: ConfigPath, value: str) -> Path:
        """Absolute path of a relative one.

        The base is the directory of the file in which `path` is written, else of the first file.
        """
        node = find(self.root, path)
        return self.absolute_path(node.mark, value) if node is not None else self.base / value

    def absolute_path(self, mark: FilePosition, value: str) -> Path:
        """Absolute path of a relative one that is written at a place."""
        return self.directories.get(mark.file, self.base) / value


@dataclass(frozen=True)
class Loaded:
    """A valid configuration.

    base: directory of the first file, absolute.
    warnings: problems that do not prevent the use of the configuration.
    started_as: version under which a daemon started with it; None: that of its values.
    """

    config: BridgeConfig = field(repr=False)
    base: Path
    warnings: tuple[Problem, ...]
    document: MergedDocument = field(repr=False)
    started_as: str | None = None

    @cached_property
    def version(self) -> str:
        """Short content hash of the effective configuration, without secrets."""
        if self.started_as is not None:
            return self.started_as
        # Suppressions change nothing that runs
        effective = {name: value for name, value in self.masked().items() if name != "check"}
        return hashlib.sha256(json.dumps(effective, sort_keys=True).encode()).hexdigest()[:12]

    def locate(self, path: ConfigPath, what: str) -> Problem:
        """Create a problem at a path, like `("routes", 2, "when")`.

        Its place is that of the path, or of the nearest parent that is written.
        """
        return self.document.locate(path, what)

    def resolve(self, path: ConfigPath, value: str) -> Path:
        """Absolute path of `value`, relative to the file in which `path` is written.

        For a default, relative to `base`.
        """
        return self.document.resolve(path, value)

    def effective(self) -> str:
        """YAML of the effective configuration, with the origin of every value as a comment and secrets masked."""
        return render(self.config, self.document.root)

    def masked(self) -> dict[str, Any]:
        """Values of the effective configuration, with secrets masked."""
        found: dict[str, Any] = masked(self.config, self.document.root)
        return found


@dataclass(frozen=True, slots=True)
class Survey:
    """Parsed part of a configuration, and every problem found while loading it.

    loaded: the configuration. If `whole` is False, placeholders stand in for invalid parts, for inspection of the
    rest. None if a file cannot be read.
    whole: True if no part is left out. The configuration can then be used unless `problems` holds an error.
    """

    problems: tuple[Problem, ...]
    loaded: Loaded | None = None
    whole: bool = False


def load(paths: Sequence[Path], overlays: Sequence[Path] = (), *, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read, merge and check a configuration.

    paths: files, or directories whose *.yaml and *.yml files are read in the order of their names.
    overlays: files or directories, laid on top in order.
    environ: environment variables; None for those of the process.
    Raises: ConfigError with every problem.
    """
    found = survey(paths, overlays, environ=environ)
    if found.loaded is None or any(problem.severity == "error" for problem in found.problems):
        raise ConfigError(found.problems)
    return found.loaded


def survey(paths: Sequence[Path], overlays: Sequence[Path] = (), *, environ: Mapping[str, str] | None = None) -> Survey:
    """Read, merge and check a configuration like `load`, but continue after problems. Raises no ConfigError."""
    problems: list[Problem] = []
    directories: dict[str, Path] = {}
    suppressions: list[FileSuppression] = []
    root = _joined(paths, directories, problems, suppressions)
    tops = [(path, _joined([path], directories, problems, suppressions, _OVERLAY_HELP)) for path in overlays]
    if root is None:
        return Survey(tuple(problems or [Problem("", 0, 0, "", f"no configuration is given; {_HELP}", code="C001")]))
    # A file that cannot be read may hold the sections that seem to be missing. Its problem has no path
    readable = all(problem.path for problem in problems)
    for _, top in tops:
        if top is not None:
            root = overlay(root, top, problems)
    base = directories[root.mark.file]
    _check_defaults(root, problems)
    document = MergedDocument(apply_defaults(root), directories, base)
    environment = os.environ if environ is None else environ
    unset: list[Problem] = []
    root = interpolate(document.root, environment, document.absolute_path, unset)
    document = MergedDocument(root, directories, base, tuple(suppressions))
    problems += unset
    known = {(problem.file, problem.line, problem.column) for problem in unset}
    config, whole = _examine(document, problems, readable, known)
    found = tuple(_unique(problems, list(directories)))
    if not readable:
        return Survey(found)
    warnings = tuple(problem for problem in found if problem.severity == "warning")
    return Survey(found, Loaded(config, base, warnings, document), whole)


def _files(path: Path, problems: list[Problem], help_: str) -> list[Path]:
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file()), key=str)
        if not files:
            problems.append(Problem(str(path), 0, 0, "", f"holds no *.yaml or *.yml file; {help_}", code="C001"))
        return files
    if not path.exists():
        problems.append(Problem(str(path), 0, 0, "", f"does not exist; {help_}", code="C001"))
        return []
    return [path]


def _joined(
    paths: Sequence[Path],
    directories: dict[str, Path],
    problems: list[Problem],
    suppressions: list[FileSuppression],
    help_: str = _HELP,
) -> MappingNode | None:
    """Files at the paths as one document. help_: remedy for a path without a file."""
    joined: MappingNode | None = None
    for path in paths:
        for file in _files(path, problems, help_):
            directories[str(file)] = file.absolute().parent
            document = read(file, problems, suppressions)
            if document is not None:
                document = expand(document, problems)
                joined = document if joined is None else join(joined, document, problems)
    return joined


def _check_defaults(root: MappingNode, problems: list[Problem]) -> None:
    defaults = root.entries.get("defaults")
    if defaults is None:
        return
    if not isinstance(defaults, MappingNode):
        problems.append(
            place(root, ("defaults",)).problem(("defaults",), "expected a mapping of kinds, like `source:`")
        )
        return
    for kind, mark, entry in defaults.items():
        if kind not in DEFAULTS:
            what = f"unknown kind `{kind}`{suggestion(kind, list(DEFAULTS))}"
            problems.append(mark.problem(("defaults", kind), what, "C003"))
        elif not isinstance(entry, MappingNode):
            problems.append(mark.problem(("defaults", kind), "expected a mapping of keys and values"))
        else:
            known = keys_at((DEFAULTS[kind], 0 if kind == "route" else ""))
            for key in entry.entries:
                if key not in known:
                    what = unknown_key(key, known)
                    problems.append(key_mark(entry, key).problem(("defaults", kind, key), what, "C003"))


def _examine(
    document: MergedDocument, problems: list[Problem], readable: bool, known: Set[tuple[str, int, int]]
) -> tuple[BridgeConfig, bool]:
    """Valid part of the configuration, and True if that is all of it. The problems are added.

    known: places whose problem is already reported.
    """
    partial, error = partial_config(document.root)
    if error is not None:
        problems.extend(
            problem
            for problem in translate(error, document.root)
            if (readable or problem.path not in REQUIRED) and (problem.file, problem.line, problem.column) not in known
        )
    if readable:
        checks = Checks(partial, document.locate)
        problems.extend(checks.all())
        problems.extend(check_sagas(checks))
        problems.extend(booleans.check(partial.config, document.root, document.locate))
    problems.extend(schema_files.check(partial.config, document.locate, document.resolve))
    return partial.config if error is None else partial.compilable(), error is None


def _unique(problems: Sequence[Problem], read: Sequence[str]) -> list[Problem]:
    """Remove repeated problems and sort the rest by file.

    An invalid default is repeated in every entry that it applies to.
    """
    files = list(dict.fromkeys((*read, *(problem.file for problem in problems))))
    once = {(problem.file, problem.line, problem.column, problem.what): problem for problem in reversed(problems)}
    return sorted(once.values(), key=lambda problem: (files.index(problem.file), problem.line, problem.column))


def state_engine(loaded: Loaded, source: str) -> str:
    """Name of the engine that keeps the state of a source: the engine of its first route, else the first engine.

    While instances move, the state stays on the last engine of `find`.
    """
    engines = loaded.config.engines
    return next((route.state_engine for route in loaded.config.routes if source in route.from_), next(iter(engines)))
