"""Import of user modules, from the directory of the configuration file first, with errors that name the place."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_imported: dict[str, Path] = {}
"""Top-level modules that were imported for a configuration, with the directory in which they were looked up."""

_MESSAGE_LIMIT = 200


class ImportFailed(Exception):
    """Raised when a user module cannot be imported; the text names module, cause and line."""


def import_module(name: str, base: Path) -> ModuleType:
    """Import a module, looking in `base` first; `base` is put at the front of `sys.path` and stays there.

    A top-level module of the same name that an earlier call imported from another directory is imported again.
    Raises: ImportFailed.
    """
    base = base.absolute()
    _prefer(base)
    top = name.partition(".")[0]
    _forget_other(top, base)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ImportFailed(_describe(name, error, base)) from error
    _imported.setdefault(top, base)
    return module


def walk(module: ModuleType, base: Path) -> Iterator[ModuleType]:
    """Yield the module and, of a package, its submodules at any depth, except private ones and `__main__`.

    Raises: ImportFailed.
    """
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not found.name.startswith("_"):
            yield from walk(import_module(f"{module.__name__}.{found.name}", base), base)


def _prefer(base: Path) -> None:
    entry = str(base)
    if sys.path[:1] != [entry]:
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)


def _forget_other(top: str, base: Path) -> None:
    loaded = sys.modules.get(top)
    if loaded is None:
        return
    here = (base / top).is_dir() or (base / f"{top}.py").is_file()
    origin = _origin(loaded)
    if not here or origin is None or origin.is_relative_to(base):
        return
    if top not in _imported:
        raise ImportFailed(f"module {top!r} beside the configuration has the name of {origin}; rename it")
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]
    del _imported[top]


def _origin(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if file is not None:
        return Path(file).absolute()
    paths = list(getattr(module, "__path__", ()))
    return Path(paths[0]).absolute() if paths else None


def _describe(name: str, error: BaseException, base: Path) -> str:
    message = (str(error).splitlines() or [""])[0][:_MESSAGE_LIMIT]
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        what, where = f"{type(error).__name__}: {error.msg}", f"{error.filename}:{error.lineno}"
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<frozen")
            and frame.filename != __file__
            and "importlib" not in frame.filename
        ]
        mine = [frame for frame in frames if Path(frame.filename).is_relative_to(base)] or frames
        where = f"{mine[-1].filename}:{mine[-1].lineno}" if mine else ""
    return f"cannot import {name!r}: {what}" + (f" ({where})" if where else "")
