"""Static analysis of orchestrators: what a replay would not repeat, and waits that never end. Runs none of the code."""

from bridge.lint.analysis import lint
from bridge.lint.finding import RULES, Finding
from bridge.lint.sarif import sarif

__all__ = ["RULES", "Finding", "lint", "sarif"]
