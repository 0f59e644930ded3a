"""Checks of directories: access, free space, and type of the file system. Nothing is created."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from bridge.core.diagnosis import CheckAnswer, Examiner, not_checked, ok, problem, warning
from bridge.system.threads import in_thread

_LITTLE, _FULL = 1 << 30, 100 << 20
"""Free bytes below which space is little, and below which writing will soon fail."""

_MOUNTS = Path("/proc/self/mountinfo")

NETWORK = frozenset(
    {
        "9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs",
        "nfs4", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip
"""Types of file systems whose files other machines can change, and whose locks are not reliable."""

MEMORY = frozenset({"ramfs", "tmpfs"})
"""Types of file systems whose files end with the machine."""


@dataclass(frozen=True, slots=True)
class Space:
    """Space of a file system. free: bytes that this user can write. kind: type such as `ext4`; empty if unknown."""

    free: int
    total: int
    kind: str


def existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def space(path: Path) -> Space:
    """Space of the file system that has the path, or would have it. Raises: OSError."""
    place = existing(path)
    usage = shutil.disk_usage(place)
    return Space(usage.free, usage.total, _kind(place))


def _kind(place: Path) -> str:
    """Type of a file system by the device of the path, which also holds for bind mounts; empty if unknown."""
    try:
        device = place.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) > 6 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""


def is_writable(path: Path) -> bool:
    """Return whether this user may create or change the path."""
    return os.access(existing(path), os.W_OK)


def access(directory: Path, path: str) -> CheckAnswer:
    """Check that this user alone may write a directory. path: setting that names it."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        place = existing(directory)
        if is_writable(directory):
            return ok(f"{directory} will be created")
        return problem(f"this user cannot write {place}", f"sudo chown $USER {place}    # or name another `{path}`")
    except OSError as error:
        return problem(f"{directory}: {error.strerror}", f"name another `{path}`")
    if not stat.S_ISDIR(found.st_mode):
        return problem(f"{directory} is a link or not a directory", f"name another `{path}`")
    if found.st_uid != os.geteuid():
        return problem(f"{directory} belongs to user {found.st_uid}", f"sudo chown -R $USER {directory}")
    if not os.access(directory, os.W_OK):
        return problem(f"this user cannot write {directory}", f"chmod 700 {directory}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warning(f"others can read {directory} until the next start narrows it", f"chmod 700 {directory}")
    return ok(f"{directory} belongs to this user alone")


async def examine(subject: str, directory: Path, path: str, examiner: Examiner, file: Path | None = None) -> None:
    """Check free space and file system of a directory. path: setting that names it. file: largest file in it."""

    def free() -> CheckAnswer:
        found = space(directory)
        size = file.stat().st_size if file is not None and file.exists() else 0
        text = f"{found.free / (1 << 30):.1f} of {found.total / (1 << 30):.1f} GiB free"
        remedy = f"free space below {existing(directory)}, or name another `{path}`"
        if found.free < _FULL:
            return problem(text, remedy)
        if found.free < max(_LITTLE, size):
            needs = f"; a backup or `bridge engine compact` needs {size / (1 << 30):.1f} GiB" if size > _LITTLE else ""
            return warning(text + needs, remedy)
        return ok(text)

    def kind() -> CheckAnswer:
        found = space(directory).kind
        if found in NETWORK:
            return problem(
                f"{found} is a network file system, whose locks are not reliable", f"`{path}` on a local disk"
            )
        if found in MEMORY:
            return warning(f"{found} is memory: a restart of the machine loses everything", f"`{path}` on a disk")
        return ok(found) if found else not_checked("the operating system does not report the file system")

    await examiner.check(subject, "free disk", lambda: in_thread(free))
    await examiner.check(subject, "file system", lambda: in_thread(kind))
