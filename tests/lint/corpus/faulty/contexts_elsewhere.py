"""Contexts that another module imports."""

from durabletask import task

Imported = task.OrchestrationContext


class Context(task.OrchestrationContext):
    pass
