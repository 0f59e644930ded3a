"""Process that imports new workflow code and replays histories through it. It performs no work of an orchestration.

The parent writes a line of JSON with the modules, then for each history a line and the events as one message of
protocol buffers. The answers are lines of JSON. What the imported code prints on standard output is dropped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import durabletask.internal.orchestrator_service_pb2 as pb

from bridge.core.errors import ConfigError
from bridge.engines.recording import Recording
from bridge.engines.workflows import Workflows, load
from bridge.testing.histories.comparison import compare
from bridge.workflow.converter import DataConverter
from bridge.workflow.declared import SAGA_ORCHESTRATION, declared_saga
from bridge.workflow.messages import message_aware


@dataclass(frozen=True, slots=True)
class WorkflowCode:
    """Workflow code to import.

    directory: searched first.
    base: directory of the configured code, searched for modules that `directory` does not have.
    """

    directory: str
    base: str
    modules: tuple[str, ...]

    def load(self) -> Workflows:
        """Import the modules. Raises: ConfigError."""
        sys.path.insert(0, self.base)
        return load(self.modules, Path(self.directory))


def main() -> None:
    """Answer the parent until its end of file."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    given = json.loads(requests.readline())
    try:
        workflows = WorkflowCode(given["directory"], given["base"], tuple(given["modules"])).load()
    except ConfigError as error:
        _write(answers, {"error": "; ".join(problem.what for problem in error.problems)})
        return
    orchestrators = {name: message_aware(each) for name, each in workflows.orchestrators.items()}
    orchestrators[SAGA_ORCHESTRATION] = message_aware(declared_saga)
    _write(answers, {"orchestrators": sorted(orchestrators)})
    converter = DataConverter()
    while header := requests.readline():
        _write(answers, _answer(json.loads(header), requests, orchestrators, converter))


def _answer(
    header: Mapping[str, Any],
    requests: BinaryIO,
    orchestrators: Mapping[str, Callable[..., Any]],
    converter: DataConverter,
) -> dict[str, Any]:
    events = tuple(pb.HistoryChunk.FromString(requests.read(header["size"])).events)
    recording = Recording(header["instance_id"], header["orchestration"], events)
    difference = compare(recording, orchestrators, converter)
    return {"difference": None if difference is None else asdict(difference)}


def _write(answers: Any, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
