"""Names in the documents exist, and public names are documented: links, options, keys, metrics, headers, states."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.cli import root
from bridge.cli.shared import exit_codes
from bridge.config import model_fields
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.config.model.routes import COMMANDS
from bridge.core import provenance
from bridge.core.errors import (
    AlreadyTaken,
    BridgeError,
    EarlierMessagesWait,
    EngineError,
    EngineOutage,
    EngineRejected,
    MessageError,
)
from bridge.core.message import Message, Position, Unreadable
from bridge.core.settlement import reason_of
from bridge.core.states import READY, STATES, Outcome
from bridge.early_messages import state_machine as early_message_queue
from bridge.ops.health import PartKind
from bridge.ops.metrics import Metrics
from bridge.quarantine import state_machine as key_quarantine
from tests.docs.document import DOCUMENTS, ROOT, anchors, blocks, prose, read, table, unnamed_files
from tests.kit.source import trees, walk

_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_PREFIXES: dict[str, tuple[str, ...]] = {
    "ops": ("ops",),
    "limits": ("sources", "x", "limits"),
    "retry": ("sources", "x", "retry"),
    "workflows": ("workflows",),
    "worker": ("engines", "x", "worker"),
}


def test_links() -> None:
    for document in DOCUMENTS:
        for link in _LINK.findall(prose(document)):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (ROOT / document).parent / path if path else ROOT / document
            assert target.is_file(), f"{document}: {link}"
            if anchor:
                assert anchor in anchors(str(target.resolve().relative_to(ROOT))), f"{document}: {link}"


def test_files_that_are_named() -> None:
    for document in DOCUMENTS:
        for code in _CODE.findall(prose(document)):
            if re.fullmatch(r"(bridge|tests|config/|demo|workflows)/?[\w./-]+\.(py|yaml|json)", code):
                scaffolded = code in ("tests/test_workflow.py", "bridge.yaml")
                assert scaffolded or (ROOT / code).is_file(), f"{document}: {code}"
            elif re.fullmatch(r"(bridge|tests|config|demo|workflows)/[\w./-]*/", code):
                assert (ROOT / code).is_dir(), f"{document}: {code}"


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_prose_and_diagrams_name_in_short(document: str) -> None:
    known = [
        f"/{each.relative_to(ROOT)}" for room in ("bridge", "tests", "deploy") for each in (ROOT / room).rglob("*.py")
    ]
    unknown = [
        name
        for name in re.findall(r"[\w/]+\.py\b", read(document))
        if not any(each.endswith(f"/{name}") for each in known)
    ]
    assert unknown == []


_FOREIGN = {
    "kafka_consumer": "a decorator of DBOS",
    "process_cpu_seconds_total": "a metric of prometheus-client",
    "process_start_time_seconds": "a metric of prometheus-client",
    "request_entity_too_large": "made of the name of a class of aiohttp",
    "unsupported_media_type": "made of the name of a class of aiohttp",
}
"""Names that other programs give."""

_WITHOUT_CODE = ("CHANGELOG.md", "docs/performance.md")
"""Documents with names of earlier versions, and with names of figures that a benchmark puts together."""


@cache
def _words_of_the_code() -> frozenset[str]:
    """Words in the code and the names of its files."""
    files = [
        each
        for room in ("bridge", "benchmarks", "demo", "deploy", "tests", "workflows", "config")
        for each in (ROOT / room).rglob("*")
        if each.suffix in (".py", ".yaml", ".tmpl", ".js", ".html") and each != Path(__file__)
    ]
    return frozenset(word for each in files for word in (each.stem, *re.findall(r"\w+", each.read_text())))


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each not in _WITHOUT_CODE])
def test_words_with_underscores_are_in_the_code(document: str) -> None:
    words = {code for code in _CODE.findall(prose(document)) if re.fullmatch(r"[a-z]+(_[a-z]+)+", code)}
    known = _words_of_the_code()
    assert [word for word in sorted(words - _FOREIGN.keys()) if word.removesuffix("_total") not in known] == []


def test_architecture_names_every_room() -> None:
    named = {word for code in _CODE.findall(read("docs/architecture.md")) for word in re.split(r"\W+", code)}
    rooms = {each.parent.name for each in (ROOT / "bridge").rglob("*/__init__.py")}
    assert rooms - named == set()


def _command_lines(document: str) -> Iterator[list[str]]:
    """Yield every `bridge ...` command line in a document, split into words."""
    texts = [block.text.replace("\\\n", " ") for block in blocks(document) if block.language in ("console", "sh")]
    texts += _CODE.findall(prose(document))
    for text in texts:
        for found in re.findall(r"(?:^|[\s$(|&`])bridge ((?:[a-z-]+|-[a-z-]).*)", text, re.MULTILINE):
            yield re.split(r"\s+", re.split(r"[|&#)]", found)[0].strip())


def _options(words: list[str]) -> tuple[set[str], str]:
    """Return the options of the command in a line, and the name of the command."""
    command: click.Command = root
    name = "bridge"
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if word.startswith("-"):
            break
        assert found is not None, f"there is no command {name} {word}"
        command, name = found, f"{name} {word}"
    options = {option for parameter in command.params for option in parameter.opts}
    return options | {"-h", "--help", "--version"}, name


def test_commands_and_options() -> None:
    gone = {row[1] for row in table("CHANGELOG.md", "Kind") if row[0] == "command"}
    for document in DOCUMENTS:
        for words in _command_lines(document):
            if document == "CHANGELOG.md" and f"bridge {words[0]}" in gone:
                continue
            if words[0].startswith("-") or words[0] in root.list_commands(click.Context(root)):
                options, name = _options(words)
                for word in words:
                    if re.fullmatch(r"--?[a-z][a-z-]*", word):
                        assert word in options, f"{document}: {name} has no {word}"
            else:
                pytest.fail(f"{document}: there is no command bridge {words[0]}")


@cache
def _all_options(command: click.Command) -> frozenset[str]:
    """Options of a command and of all commands below it."""
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            options |= _all_options(child)
    return frozenset(options)


def test_options_that_stand_alone() -> None:
    known = _all_options(root) | {"--help"}
    for document in DOCUMENTS:
        for code in _CODE.findall(prose(document)):
            if re.fullmatch(r"--[a-z-]+", code):
                assert code in known, f"{document}: {code}"


def test_the_text_before_a_file_names_it() -> None:
    """A reader of the page does not see the comment from which a test takes the name."""
    found = {document: unnamed_files(document) for document in DOCUMENTS}
    assert {document: lines for document, lines in found.items() if lines} == {}


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for text in (*_CODE.findall(prose(document)), *(block.text for block in blocks(document, "sh"))):
            for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
                assert target in targets, f"{document}: make {target}"


def test_configuration_keys() -> None:
    for document in DOCUMENTS:
        for code in _CODE.findall(prose(document)):
            found = re.fullmatch(r"(\w+)((?:\.\w+)+)", code)
            if found is None or found[1] not in _PREFIXES:
                continue
            path: tuple[str | int, ...] = _PREFIXES[found[1]]
            if code.removeprefix("limits.").removeprefix("per.") in ("running", "rate", "burst"):
                path = ("routes", 0, "limits")
            for part in found[2].split(".")[1:]:
                assert part in model_fields.keys_at(path), f"{document}: {code}"
                path = (*path, part)


def test_every_metric() -> None:
    class Nothing:
        published: dict[str, int] = {}  # noqa: RUF012 -- never changed
        failed: dict[str, int] = {}  # noqa: RUF012 -- never changed

    text = Metrics(lambda: (), lambda: (), Nothing(), version="1", config="c").render().decode()
    exposed = {
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type)
        for family in text_string_to_metric_families(text)
    }
    assert {(row[0], row[1]) for row in table("docs/metrics.md", "Metric")} == exposed
    named = set(re.findall(r"\bbridge_[a-z_]+\b", "".join(map(read, DOCUMENTS))))
    named -= {row[1] for row in table("CHANGELOG.md", "Kind") if row[0] == "metric"}
    assert [word for word in named if not any(name.startswith(word) for name, _ in exposed)] == []


def test_every_header_of_a_dead_letter() -> None:
    cause = provenance.Cause(
        "r", "d", "E", "s", "route", ("a", "b"), 2, "c", "m", replayed=True, expression="route route, when", at=1.0
    )
    message = Message(
        b"",
        headers=(("bridge.reason", b"r"), ("bridge.job", b"j"), ("bridge.edited-from", b"t/0@1")),
        timestamp=1.0,
        unreadable=Unreadable("crc", "rotten", last=4),
    )
    written = provenance.dead_letter(message, Position("c", "t", 0, 1), cause)
    assert {row[0] for row in table("docs/dead-letters.md", "Header")} == {name for name, _ in written.headers}


def _leaves(error: type[BridgeError]) -> Iterator[type[BridgeError]]:
    for child in error.__subclasses__():
        yield child
        yield from _leaves(child)


def test_every_reason_of_a_dead_letter() -> None:
    outages = {EngineOutage, *_leaves(EngineOutage)}
    errors = (
        {error for parent in (MessageError, EngineError) for error in _leaves(parent)}
        - outages
        - {AlreadyTaken, EarlierMessagesWait}
    )
    reasons = {error.reason for error in errors} | {EngineError.reason, EngineRejected.reason, reason_of(ValueError())}
    reasons |= {early_message_queue.EXPIRED, early_message_queue.FULL, early_message_queue.DROPPED}
    reasons |= {key_quarantine.FULL, key_quarantine.DROPPED}
    steps = {row[0]: row[2] for row in table("docs/dead-letters.md", "Reason")}
    assert set(steps) == reasons
    assert [
        reason for reason, step in steps.items() if not re.search(r"\b(replay|edit|drop)\b", step, re.IGNORECASE)
    ] == []


def test_every_state_outcome_and_exit_code() -> None:
    components = {tuple(row[:3]) for row in table("docs/operations.md", "Component")}
    kinds = ("source", *get_args(PartKind))
    assert components == {(kind, state, "yes" if state in READY else "no") for kind in kinds for state in STATES[kind]}
    others = {row[0].partition(" (")[0]: set(_CODE.findall(row[1])) for row in table("docs/operations.md", "Subject")}
    assert others == {name: set(STATES[name]) for name in STATES if name not in kinds}
    assert {row[0] for row in table("docs/operations.md", "Exit code")} == {str(code) for code in exit_codes.MEANINGS}
    outcomes = next(row[3] for row in table("docs/metrics.md", "Metric") if row[0] == "bridge_outcomes_total")
    assert set(_CODE.findall(outcomes)) == set(Outcome)


def test_every_command_and_credential() -> None:
    assert {row[0] for row in table("docs/routing.md", "Command")} == set(COMMANDS)
    credentials = get_args(SchedulerEngineConfig.model_fields["credential"].annotation)
    assert {row[0] for row in table("docs/engines.md", "credential")} == set(credentials)


def test_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    texts = [*project["project"]["dependencies"], *(text for extra in optional for text in extra)]
    needed = {re.split(r"[><=;\[ ]", text)[0] for text in texts}
    assert sorted(row[0] for row in table("docs/dependencies.md", "Library")) == sorted(needed)


_IMPORTED_AS = {
    "azure-identity": "azure.identity",
    "azure-keyvault-secrets": "azure.keyvault",
    "azure-servicebus": "azure.servicebus",
    "azure-storage-blob": "azure.storage",
    "aws-msk-iam-sasl-signer-python": "aws_msk_iam_sasl_signer",
    "opentelemetry-api": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "protobuf": "google.protobuf",
    "pyjwt": "jwt",
    "python-jsonpath": "jsonpath",
    "pyyaml": "yaml",
}
"""Modules of libraries whose names differ from them."""


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules and names that a module imports."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_libraries_are_imported_where_the_page_says() -> None:
    imports = {".".join(("bridge", *path.with_suffix("").parts)): set(_imports(tree)) for path, tree in trees()}
    for library, _, where in table("docs/dependencies.md", "Library"):
        module = _IMPORTED_AS.get(library, library.replace("-", "_"))
        importing = {
            name for name, found in imports.items() if any(f"{each}.".startswith(f"{module}.") for each in found)
        }
        packages = re.findall(r"bridge(?:\.\w+)+", where)
        for package in packages:
            assert any(f"{name}.".startswith(f"{package}.") for name in importing), f"{package} has no {library}"
        if where != "everywhere":
            elsewhere = [name for name in importing if not f"{name}.".startswith(tuple(f"{one}." for one in packages))]
            assert elsewhere == [], library


def test_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {row[0] for row in table("docs/install.md", "Extra")} == project["project"]["optional-dependencies"].keys()


def test_nothing_is_installed_from_an_index_that_does_not_have_it() -> None:
    """The bridge is installed from a checkout or a file until its first release (RELEASING.md)."""
    texts = [*DOCUMENTS, *(str(path.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("*.py"))]
    by_name = re.compile(r"(?:pip|pipx|uv tool|uv pip) install [^\n`]*durable-bridge(?!:)")
    assert [name for name in texts if by_name.search(read(name))] == []
