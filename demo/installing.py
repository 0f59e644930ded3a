"""Show the progress of an installation in one line: `python demo/installing.py TOTAL COMMAND...`.

The script needs no library: `make demo` runs it before the first one is installed. A command that fails has its whole
output on standard error.
"""

from __future__ import annotations

import subprocess
import sys

BEGIN = "Collecting "
"""Beginning of pip's line about the next library."""


def main(total: int, command: list[str]) -> int:
    """Run a command and count the libraries in its output. Returns the exit code."""
    shown, count, output = sys.stdout.isatty(), 0, []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if line.startswith(BEGIN) and shown:
                count += 1
                sys.stdout.write(f"\r      {min(count, total)} of {total}\x1b[K")
                sys.stdout.flush()
    if count:
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()
    if process.returncode:
        sys.stderr.write("".join(output))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
