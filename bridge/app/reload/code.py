"""Files of the configuration's own Python code: a running process keeps the code that it has imported."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection
from pathlib import Path


class ImportedCode:
    """Digests of the imported files of some packages. Later changes of the files do not reach this process."""

    def __init__(self, packages: Collection[str]) -> None:
        """Note the files as they are now."""
        self._digests: dict[Path, bytes] = {}
        self.add(packages)

    def add(self, packages: Collection[str]) -> None:
        """Note files that were imported since."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name.partition(".")[0] in packages and file is not None and (path := Path(file)) not in self._digests:
                self._digests[path] = digest_of(path)

    def changed(self) -> list[Path]:
        """Files whose content is another one now, or that are gone."""
        return [path for path, digest in self._digests.items() if digest_of(path) != digest]


def digest_of(path: Path) -> bytes:
    """Digest of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
