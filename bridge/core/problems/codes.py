"""Codes of the messages of `bridge check`: one table with severity and summary of each.

A code never changes its meaning. `docs/check.md` has a section for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from bridge.core.errors import Problem

PAGE = "docs/check.md"


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of message.

    needs: input without which the check does not run: imported workflow modules, sample messages, or two versions of a
    schema.
    """

    name: str
    severity: Literal["error", "warning"]
    summary: str
    needs: Literal["", "imports", "samples", "schemas"] = ""

    @property
    def title(self) -> str:
        """Heading of the section about this code."""
        return f"{self.name}: {self.summary}"

    @property
    def anchor(self) -> str:
        """Page and anchor of the section about this code."""
        return f"{PAGE}#{re.sub(r'[^a-z0-9_ -]', '', self.title.lower()).replace(' ', '-')}"


SUPPRESSION = "C030"
"""Code of a suppression that is not valid."""

_TABLE = (
    # Files and shape of the configuration
    Code("C001", "error", "a file cannot be read"),
    Code("C002", "error", "a file is not YAML"),
    Code("C003", "error", "an unknown key"),
    Code("C004", "error", "a missing key"),
    Code("C005", "error", "an invalid value"),
    Code("C006", "error", "keys that do not fit together"),
    Code("C007", "error", "a variable or secret that cannot be read"),
    Code("C008", "error", "files that do not fit together"),
    Code("C009", "error", "a name without entry"),
    Code("C010", "error", "a name that is taken"),
    Code("C011", "error", "messages that are read twice"),
    Code("C012", "error", "an unusable schema"),
    Code("C013", "error", "a module or function that cannot be imported", needs="imports"),
    Code("C014", "warning", "an extra that is not installed"),
    Code("C015", "error", "yes or no instead of true or false"),
    Code("C020", "warning", "an entry without effect"),
    Code("C021", "warning", "a sub-queue without dead letters"),
    Code("C022", "error", "parts of a saga that do not fit together"),
    Code("C023", "warning", "a saga step that waits without limit"),
    Code("C024", "warning", "a file of tokens or keys that cannot be read"),
    Code("C025", "warning", "a move to another engine that skips a step"),
    Code("C026", "warning", "lifecycle events that a source reads"),
    Code(SUPPRESSION, "warning", "a suppression that is not valid"),
    # Rules
    Code("R001", "error", "an expression that does not compile"),
    Code("R002", "error", "a template that does not compile"),
    Code("R003", "error", "braces around an expression"),
    Code("R004", "warning", "a template without double braces"),
    Code("R005", "warning", "a constant instance id"),
    Code("R006", "warning", "one instance id for all items"),
    Code("R007", "warning", "an instance id without constant prefix"),
    Code("R008", "error", "a command that no engine accepts"),
    Code("R009", "error", "an unknown orchestration or entity", needs="imports"),
    Code("R010", "warning", "a wildcard in match"),
    Code("R011", "warning", "an equality that never holds"),
    Code("R012", "warning", "a constant condition"),
    Code("R013", "warning", "a condition that never holds"),
    Code("R014", "error", "an invalid regular expression"),
    Code("R015", "error", "a condition that is neither true nor false"),
    Code("R016", "warning", "a rule that is never reached"),
    Code("R017", "warning", "one instance id for different orchestrations"),
    Code("R018", "warning", "the whole payload for each item"),
    Code("R019", "warning", "on_missing by default on independent topics"),
    Code("R020", "warning", "an expensive expression"),
    Code("R021", "warning", "an engine that forgets too early"),
    Code("R022", "warning", "starts that wait within a cap"),
    Code("R023", "warning", "a limit under which one value delays all others"),
    Code("R024", "warning", "a rule that no sample reaches", needs="samples"),
    Code("R025", "warning", "yes or no as text"),
    Code("R026", "warning", "instances of several sources with a candidate"),
    Code("R027", "warning", "different engines for the same instances"),
    Code("R030", "warning", "a version that the worker leaves to others"),
    Code("R031", "warning", "a member that the schema does not have"),
    Code("R032", "warning", "a type that does not fit the schema"),
    Code("R033", "warning", "an expression that does not fit a version of a schema", needs="schemas"),
    Code("R034", "warning", "an upcast without a newer version"),
    # Insecure settings
    Code("S001", "warning", "credentials without TLS on Kafka"),
    Code("S002", "warning", "Kafka without TLS and credentials"),
    Code("S003", "warning", "host names that are not checked"),
    Code("S004", "warning", "an emulator on another machine"),
    Code("S005", "warning", "a key with all rights"),
    Code("S006", "warning", "credentials of a registry over http"),
    Code("S007", "warning", "a registry over http"),
    Code("S008", "warning", "the token of an engine over http"),
    Code("S009", "warning", "an engine over http"),
    Code("S010", "warning", "a short token"),
    Code("S011", "warning", "an engine port without token"),
    Code("S012", "warning", "an engine port without TLS"),
    Code("S013", "warning", "an ops port without TLS"),
    Code("S014", "warning", "an ops port for every client"),
    Code("S015", "warning", "a secret in a file"),
    Code("S016", "warning", "tokens over HTTP"),
    Code("S017", "warning", "an identity provider over HTTP"),
    Code("S018", "warning", "a webhook over HTTP"),
    # Workflow code
    Code("W001", "error", "a name that workflow code uses and nothing has"),
)
CODES: Mapping[str, Code] = MappingProxyType({code.name: code for code in _TABLE})
"""Every code, in the order of the page."""


def coded(code: str, problem: Problem) -> Problem:
    """Problem with a code and the severity of the code."""
    return replace(problem, code=code, severity=CODES[code].severity)
