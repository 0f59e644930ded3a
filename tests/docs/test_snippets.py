"""Configurations in the documents load and compile; code compiles and equals the code of the files that it names."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from bridge.app.check.configuration import check
from bridge.app.scaffold import create
from tests.docs.document import DOCUMENTS, ROOT, Block, blocks

pytestmark = pytest.mark.long

BASE = {
    "engine": {"type": "embedded"},
    "brokers": {
        "local": {"type": "local"},
        "bus": {"type": "servicebus", "namespace": "shop"},
        "hooks": {"type": "webhook", "url": "https://ops.example.com/bridge"},
    },
    "targets": {"ops": {"broker": "hooks"}},
    "sources": {
        name: {"broker": "local", "topics": [name], "no_match": "dead_letter"}
        for name in ("orders", "payments", "refunds")
    },
}
"""Configuration that completes a snippet of single sections."""

SAGAS = {
    **BASE,
    "targets": {"order-results": {"broker": "local", "topic": "order-results"}},
    "sources": {**BASE["sources"], "answers": {"broker": "local", "topics": ["answers"], "no_match": "dead_letter"}},  # type: ignore[dict-item]  # wider than its annotation, on purpose
    "sagas": {
        "payout": {"steps": [{"name": "a", "command": {"target": "order-results", "type": "a", "reply": False}}]}
    },
    "routes": [{"name": "answers", "from": "answers", "reply": {}}],
}
"""Configuration that completes a snippet with sagas."""


OTHERS = ("java", "go", "javascript")
"""Languages of the samples in `docs/samples`, which tests run."""


def _each(language: str) -> list[object]:
    return [
        pytest.param(document, block, id=f"{document}:{block.line}")
        for document in DOCUMENTS
        for block in blocks(document, language)
    ]


def _written(document: str, block: Block, directory: Path) -> tuple[list[Path], list[Path]]:
    """Write the block as configuration or overlay, beside the other files of its document.

    Returns configs and overlays.
    """
    create("shop", directory)
    project = directory / "shop"
    for other in blocks(document):
        if other.mark == "file" and other.language != "yaml":
            (project / other.name).parent.mkdir(exist_ok=True)
            (project / other.name).write_text(other.text)
    config, overlay = project / "bridge.yaml", project / "overlay.yaml"
    match block.mark:
        case "in":
            given = yaml.safe_load(block.text)
            if block.name == "brokers":
                given = {**BASE["brokers"], **given}  # type: ignore[dict-item]  # wider than its annotation, on purpose
            config.write_text(json.dumps({**BASE, block.name: given}))
        case "append":
            config.write_text(config.read_text() + block.text)
        case "overlay":
            if "withdraw" in block.text:
                config.write_text(config.read_text() + next(b.text for b in blocks(document) if b.mark == "append"))
            overlay.write_text(block.text)
            return [config], [overlay]
        case "file":
            config.write_text(block.text)
        case _:
            given = yaml.safe_load(block.text)
            base = SAGAS if "saga" in block.text else BASE
            rest = {name: entry for name, entry in base.items() if name != "engine" or "engines" not in given}
            config.write_text(json.dumps({**rest, **given}))
    return [config], []


@pytest.mark.parametrize(("document", "block"), _each("yaml"))
def test_configuration(document: str, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_IP", "10.0.0.1")
    monkeypatch.setenv("WEBHOOK_SECRET", f"whsec_{'A' * 32}")
    if block.mark == "kubernetes":
        given = yaml.safe_load(block.text)
        assert given.get("kind") or given["readinessProbe"]["httpGet"]["path"] == "/readyz"
        return
    if block.mark == "values":
        schema = json.loads((ROOT / "deploy/helm/durable-bridge/values.schema.json").read_text())
        jsonschema_rs.validator_for(schema).validate(yaml.safe_load(block.text))
        return
    if block.mark in ("wrong", "right"):
        return  # tests/docs/test_check_page.py
    if block.mark == "from":
        assert _parts_of_the_file(block)
        assert not check([ROOT / block.name], imports=False).errors
        return
    if block.mark == "file" and block.name.startswith("tests/"):
        return  # fixtures of `bridge test`, which the commands of the page run
    report = check(*_written(document, block, tmp_path), imports=False)
    shown = (ROOT / document).read_text()  # a page may show the problem of its own example
    problems = [problem for problem in report.problems if problem.what not in shown]
    unwanted = [problem for problem in problems if problem.severity == "error" or block.mark == "append"]
    assert not unwanted


@pytest.mark.parametrize(("document", "block"), _each("json"))
def test_json(document: str, block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize(("document", "block"), _each("python"))
def test_code(document: str, block: Block) -> None:
    if block.mark != "from":
        compile(block.text, document, "exec")
        return
    for part in _parts_of_the_file(block):
        compile(_function(part), document, "exec")


@pytest.mark.parametrize(("document", "block"), [each for name in OTHERS for each in _each(name)])
def test_code_of_other_languages(document: str, block: Block) -> None:
    assert _parts_of_the_file(block)


def _parts_of_the_file(block: Block) -> list[str]:
    """Parts between lines of `...`, each of which the file must have."""
    code = (ROOT / block.name).read_text()
    parts = block.text.split("...\n")
    for part in parts:
        assert part in code, f"{block.name} has no longer:\n{part}"
    return parts


def _function(part: str) -> str:
    """Wrap a part of a function's body in a function."""
    body = textwrap.indent(textwrap.dedent(part), "    ")
    return f"def part():\n{body}\n    yield\n"


def test_every_block_is_of_a_known_kind() -> None:
    known = {
        "": {""}, "mermaid": {""}, "console": {""}, "sh": {""}, "dockerfile": {""}, "json": {"file", "samples"},
        "python": {"", "file", "from"}, **{key: {"from"} for key in OTHERS},
        "yaml": {"", "file", "append", "overlay", "in", "kubernetes", "values", "wrong", "right",
                 "former", "from"},
    }  # fmt: skip
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.mark in known[block.language], f"{document}:{block.line}"


@pytest.mark.parametrize(("document", "block"), _each("mermaid"))
def test_a_semicolon_would_end_a_statement_of_a_diagram(document: str, block: Block) -> None:
    assert ";" not in block.text


def test_compose_binds_to_loopback_what_the_overlay_expects() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    overlay = yaml.safe_load((ROOT / "config/overlays/scheduler.yaml").read_text())
    assert overlay["engine"]["endpoint"] == "${ENDPOINT:-http://localhost:8080}"
    assert "127.0.0.1:8080:8080" in ports
