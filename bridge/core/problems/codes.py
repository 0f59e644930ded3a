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
class ProblemCode:
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
    ProblemCode("C001", "error", "a file cannot be read"),
    ProblemCode("C002", "error", "a file is not YAML"),
    ProblemCode("C003", "error", "an unknown key"),
    ProblemCode("C004", "error", "a missing key"),
    ProblemCode("C005", "error", "an invalid value"),
    ProblemCode("C006", "error", "keys that do not fit together"),
    ProblemCode("C007", "error", "a variable or secret that cannot be read"),
    ProblemCode("C008", "error", "files that do not fit together"),
    ProblemCode("C009", "error", "a name without entry"),
    ProblemCode("C010", "error", "a name that is taken"),
    ProblemCode("C011", "error", "messages that are read twice"),
    ProblemCode("C012", "error", "an unusable schema"),
    ProblemCode("C013", "error", "a module or function that cannot be imported", needs="imports"),
    ProblemCode("C014", "warning", "an extra that is not installed"),
    ProblemCode("C015", "error", "yes or no instead of true or false"),
    ProblemCode("C020", "warning", "an entry without effect"),
    ProblemCode("C021", "warning", "a sub-queue without dead letters"),
    ProblemCode("C022", "error", "parts of a saga that do not fit together"),
    ProblemCode("C023", "warning", "a saga step that waits without limit"),
    ProblemCode("C024", "warning", "a file of tokens or keys that cannot be read"),
    ProblemCode("C025", "warning", "a move to another engine that skips a step"),
    ProblemCode("C026", "warning", "lifecycle events that a source reads"),
    ProblemCode(SUPPRESSION, "warning", "a suppression that is not valid"),
    # Rules
    ProblemCode("R001", "error", "an expression that does not compile"),
    ProblemCode("R002", "error", "a template that does not compile"),
    ProblemCode("R003", "error", "braces around an expression"),
    ProblemCode("R004", "warning", "a template without double braces"),
    ProblemCode("R005", "warning", "a constant instance id"),
    ProblemCode("R006", "warning", "one instance id for all items"),
    ProblemCode("R007", "warning", "an instance id without constant prefix"),
    ProblemCode("R008", "error", "a command that no engine accepts"),
    ProblemCode("R009", "error", "an unknown orchestration or entity", needs="imports"),
    ProblemCode("R010", "warning", "a wildcard in match"),
    ProblemCode("R011", "warning", "an equality that never holds"),
    ProblemCode("R012", "warning", "a constant condition"),
    ProblemCode("R013", "warning", "a condition that never holds"),
    ProblemCode("R014", "error", "an invalid regular expression"),
    ProblemCode("R015", "error", "a condition that is neither true nor false"),
    ProblemCode("R016", "warning", "a rule that is never reached"),
    ProblemCode("R017", "warning", "one instance id for different orchestrations"),
    ProblemCode("R018", "warning", "the whole payload for each item"),
    ProblemCode("R019", "warning", "on_missing by default on independent topics"),
    ProblemCode("R020", "warning", "an expensive expression"),
    ProblemCode("R021", "warning", "an engine that forgets too early"),
    ProblemCode("R022", "warning", "starts that wait within a cap"),
    ProblemCode("R023", "warning", "a limit under which one value delays all others"),
    ProblemCode("R024", "warning", "a rule that no sample reaches", needs="samples"),
    ProblemCode("R025", "warning", "yes or no as text"),
    ProblemCode("R026", "warning", "instances of several sources with a candidate"),
    ProblemCode("R027", "warning", "different engines for the same instances"),
    ProblemCode("R030", "warning", "a version that the worker leaves to others"),
    ProblemCode("R031", "warning", "a member that the schema does not have"),
    ProblemCode("R032", "warning", "a type that does not fit the schema"),
    ProblemCode("R033", "warning", "an expression that does not fit a version of a schema", needs="schemas"),
    ProblemCode("R034", "warning", "an upcast without a newer version"),
    # Insecure settings
    ProblemCode("S001", "warning", "credentials without TLS on Kafka"),
    ProblemCode("S002", "warning", "Kafka without TLS and credentials"),
    ProblemCode("S003", "warning", "host names that are not checked"),
    ProblemCode("S004", "warning", "an emulator on another machine"),
    ProblemCode("S005", "warning", "a key with all rights"),
    ProblemCode("S006", "warning", "credentials of a registry over http"),
    ProblemCode("S007", "warning", "a registry over http"),
    ProblemCode("S008", "warning", "the token of an engine over http"),
    ProblemCode("S009", "warning", "an engine over http"),
    ProblemCode("S010", "warning", "a short token"),
    ProblemCode("S011", "warning", "an engine port without token"),
    ProblemCode("S012", "warning", "an engine port without TLS"),
    ProblemCode("S013", "warning", "an ops port without TLS"),
    ProblemCode("S014", "warning", "an ops port for every client"),
    ProblemCode("S015", "warning", "a secret in a file"),
    ProblemCode("S016", "warning", "tokens over HTTP"),
    ProblemCode("S017", "warning", "an identity provider over HTTP"),
    ProblemCode("S018", "warning", "a webhook over HTTP"),
    # Workflow code
    ProblemCode("W001", "error", "a name that workflow code uses and nothing has"),
)
CODES: Mapping[str, ProblemCode] = MappingProxyType({code.name: code for code in _TABLE})
"""Every code, in the order of the page."""


def coded(code: str, problem: Problem) -> Problem:
    """Problem with a code and the severity of the code."""
    return replace(problem, code=code, severity=CODES[code].severity)
