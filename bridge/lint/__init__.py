"""Static analysis of orchestrators: code that a replay cannot repeat, and waits that never end.

No analysed code runs.
"""

from bridge.lint.analysis import Examined, Names, examine, known_names, published, unknown
from bridge.lint.code_hosts import github, sarif
from bridge.lint.finding import RULES, Finding
from bridge.lint.names import KnownNames
from bridge.lint.publications import PublishCall

__all__ = [
    "RULES",
    "Examined",
    "Finding",
    "KnownNames",
    "Names",
    "PublishCall",
    "examine",
    "github",
    "known_names",
    "published",
    "sarif",
    "unknown",
]
