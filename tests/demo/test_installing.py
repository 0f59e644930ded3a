"""Progress of the installation by `make demo`: one line on a terminal, the whole output after a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.document import ROOT
from tests.kit.processes import terminal_output

SCRIPT = ROOT / "demo" / "installing.py"
PIP = "import sys; [print(f'{word} {number}') for number in range(3) for word in ('Collecting', '  Using cached')]"


def command(code: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "3", sys.executable, "-c", code]


def test_an_installation_prints_nothing_in_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(command(PIP), capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_terminal_has_one_line_that_counts(tmp_path: Path) -> None:
    output = terminal_output(command(PIP), cwd=tmp_path)
    assert output.count(b"\n") == 0
    assert b"3 of 3" in output


def test_a_failure_shows_the_output_of_the_command(tmp_path: Path) -> None:
    failing = f"{PIP}; print('ERROR: no such library', file=sys.stderr); sys.exit(7)"
    done = subprocess.run(command(failing), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 7
    assert "Using cached 2" in done.stderr
    assert "ERROR: no such library" in done.stderr
