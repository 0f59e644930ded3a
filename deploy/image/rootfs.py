"""`python rootfs.py TARGET --tree PATH... [--for PATH...]`: root file system of an image without a distribution.

It has the trees, and of the system only what their programs and libraries load, the certificates and the time zones:
neither a shell nor a package manager. Needs Linux with glibc, and nothing but Python.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

USER, HOME = 10001, "/var/lib/bridge"
SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/share/zoneinfo",
    "/etc/os-release",
    "/usr/share/doc/ca-certificates/copyright",
)
"""Files of the system that programs read by name. Those that a system lacks are left out."""
NOT_NEEDED = (
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "include",
    "man",
    "*.a",
    "_tkinter*",
    "config-3*",
)
"""Parts of Python that a daemon does not use."""
NEVER_NEEDED = ("pip", "pip-*", "pip3*")
"""Files beside libraries that a daemon does not use."""
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")


def binaries(trees: Iterable[Path]) -> Iterator[Path]:
    """Programs and libraries below some directories, or such files themselves."""
    for tree in trees:
        for path in [tree] if tree.is_file() else sorted(tree.rglob("*")):
            if path.is_file() and not path.is_symlink() and _begins(path, b"\x7fELF"):
                yield path


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def libraries(binary: Path) -> set[Path]:
    """Libraries that the loader finds for a program or library, with the loader itself."""
    shown = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607 -- of the image that is built
    return {Path(found) for found in _LIBRARY.findall(shown)}


def copy(path: Path, target: Path) -> None:
    """Copy a file to the same place below the target, with the links that lead to it."""
    path = Path(os.path.normpath(path))  # links lead to `..`, and so do libraries beside their program
    place = target / path.relative_to("/")
    if place.is_symlink() or place.exists():
        return
    if path.parent != path.parent.resolve():
        # /lib is a link to /usr/lib in a merged system: the loader's path goes through it
        first = next(Path(*path.parts[:at]) for at in range(2, len(path.parts)) if Path(*path.parts[:at]).is_symlink())
        link = target / first.relative_to("/")
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(first.readlink())
        copy(first.resolve() / path.relative_to(first), target)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        place.symlink_to(path.readlink())
        copy(path.parent / path.readlink(), target)
    elif path.is_dir():
        shutil.copytree(path, place, symlinks=True)
    else:
        shutil.copy2(path, place)


def _not_needed(directory: str, names: list[str]) -> set[str]:
    is_pythons = "site-packages" not in Path(directory).parts
    patterns = (*NEVER_NEEDED, *NOT_NEEDED) if is_pythons else NEVER_NEEDED
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def assemble(target: Path, trees: Iterable[Path], further: Iterable[Path] = ()) -> None:
    """Write the root file system.

    trees: directories that it gets. further: directories or files that it gets later, for their libraries.
    """
    trees = list(trees)
    for tree in trees:
        shutil.copytree(tree, target / tree.relative_to("/"), symlinks=True, ignore=_not_needed)
    kept = [target / tree.relative_to("/") for tree in trees]
    wanted = {library for binary in binaries([*kept, *further]) for library in libraries(binary)}
    for path in sorted(wanted):
        if not any(path.is_relative_to(each) for each in (*trees, *kept, *further)):
            copy(path, target)
    for name in SYSTEM:
        if Path(name).exists():
            copy(Path(name), target)
    etc = target / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text(f"root:x:0:0:root:/:/none\nbridge:x:{USER}:{USER}::{HOME}:/none\n")
    (etc / "group").write_text(f"root:x:0:\nbridge:x:{USER}:\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    for directory, mode in (("tmp", 0o1777), ("app", 0o755), (HOME.lstrip("/"), 0o700)):
        (target / directory).mkdir(parents=True, exist_ok=True)
        (target / directory).chmod(mode)
    shutil.chown(target / HOME.lstrip("/"), USER, USER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("--tree", type=Path, action="append", default=[])
    parser.add_argument("--for", type=Path, action="append", default=[], dest="further")
    given = parser.parse_args()
    assemble(given.target, given.tree, given.further)
