"""Static analysis of orchestrators: what a replay would not repeat, and waits that never end. Runs none of the code."""

from bridge.lint.analysis import Examined, Names, examine, lint, unknown
from bridge.lint.finding import RULES, Finding
from bridge.lint.names import KnownNames
from bridge.lint.sarif import sarif

__all__ = ["RULES", "Examined", "Finding", "KnownNames", "Names", "examine", "lint", "sarif", "unknown"]
