"""Frames of Python stack traces, and the frame in the user's own code. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

_LINE = re.compile(r'  File "([^"\n]{1,1000})", line (\d{1,9}), in ([^\n]{1,200})')
_OURS = (f"{Path(__file__).parents[2]}/", "/site-packages/bridge/", "/durabletask/", "/site-packages/grpc/")
"""Parts of paths of the bridge and of the SDK."""
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ")


@dataclass(frozen=True, slots=True)
class StackFrame:
    """Frame of a stack trace. lines: the frame with its source, as the trace has it."""

    file: str
    line: int
    function: str
    lines: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """True for a frame of the bridge or of the SDK."""
        return any(part in self.file for part in _OURS)

    @property
    def is_own(self) -> bool:
        """True for a frame of the user's code."""
        return not self.is_ours and not any(part in self.file for part in _LIBRARIES)

    def __str__(self) -> str:
        file = PurePath(self.file)
        here = Path.cwd()
        return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{self.line} {self.function}"


def frames(stack_trace: str | None) -> list[StackFrame]:
    """Frames of a stack trace, the innermost last; empty for a trace that Python did not make.

    Another program may write the text of an error, and thereby payload, into its trace. Its lines are not indented.
    """
    found: list[StackFrame] = []
    lines: list[str] = []
    for line in (stack_trace or "").splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and match[1].isprintable() and match[3].isprintable():
            lines = [line]
            found.append(StackFrame(match[1], int(match[2]), match[3]))
        elif not found or not line.startswith("    "):
            return []
        else:
            lines.append(line)
        found[-1] = StackFrame(found[-1].file, found[-1].line, found[-1].function, tuple(lines))
    return found


def own_frame(found: Sequence[StackFrame]) -> StackFrame | None:
    """Innermost frame of the user's code; without one, the innermost frame of a library."""
    own = next((frame for frame in reversed(found) if frame.is_own), None)
    return own or next((frame for frame in reversed(found) if not frame.is_ours), None)
