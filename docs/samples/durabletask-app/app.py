"""Existing Durable Task application: a worker, and clients that start and decide. They know nothing of the bridge.

`app.py work` runs the worker; `app.py start ID AMOUNT`, `app.py decide ID yes` and `app.py show ID` are clients. The
engine is at DURABLETASK_ADDRESS.
"""

import os
import sys
import threading

from approvals import approval, notify
from durabletask.client import TaskHubGrpcClient
from durabletask.worker import TaskHubGrpcWorker

ADDRESS = os.environ.get("DURABLETASK_ADDRESS", "localhost:4001")


def work() -> None:
    """Run the workflows until the process ends."""
    with TaskHubGrpcWorker(host_address=ADDRESS) as worker:
        worker.add_orchestrator(approval)
        worker.add_activity(notify)
        worker.start()
        threading.Event().wait()


def main(command: str, *given: str) -> None:
    """Run one command."""
    if command == "work":
        work()
        return
    client = TaskHubGrpcClient(host_address=ADDRESS)
    id_ = f"approval-{given[0]}"
    if command == "start":
        client.schedule_new_orchestration(approval, input={"id": given[0], "amount": float(given[1])}, instance_id=id_)
    elif command == "decide":
        client.raise_orchestration_event(id_, "decided", data={"approved": given[1] == "yes"})
    state = client.get_orchestration_state(id_)
    print("unknown" if state is None else f"{state.runtime_status.name} {state.serialized_output or ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
