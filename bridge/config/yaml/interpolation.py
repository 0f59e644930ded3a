"""Interpolation of `${VAR}`, `${VAR:-default}` and `${file:NAME}` below `SECTIONS`. `$${` stands for a literal `${`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.config.yaml.node import FilePosition, MappingNode, Node, ScalarNode, SequenceNode, find
from bridge.core.errors import ConfigPath, Problem
from bridge.system.files import FileProblem, read_file

SECTIONS = ("brokers", "registries", "engines", "ops")
"""Sections in which `${...}` is replaced. It is an error in all other sections."""

MAX_SECRET = 1024 * 1024
"""Maximum size of a file that `${file:NAME}` reads, in bytes."""

_TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)(\})?")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|CONNECTION_?STRING|SAS", re.IGNORECASE)
_FORBIDDEN = (
    "`${...}` is only replaced below `brokers`, `registries`, `engines` and `ops`; use "
    "`vars`, or write `$${` for a literal `${`"
)


@dataclass(slots=True)
class _Interpolation:
    environ: Mapping[str, str]
    problems: list[Problem]
    secrets: Path | None

    def walk(self, node: Node, path: ConfigPath, allowed: bool) -> Node:
        if isinstance(node, MappingNode):
            entries, keys = {}, {}
            for key, mark, value in node.items():
                name = self._key(key, mark, (*path, key))
                entries[name], keys[name] = self.walk(value, (*path, key), allowed), mark
            return MappingNode(entries, keys, node.mark)
        if isinstance(node, SequenceNode):
            items = tuple(self.walk(item, (*path, index), allowed) for index, item in enumerate(node.items))
            return SequenceNode(items, node.mark)
        if isinstance(node.value, str) and "${" in node.value:
            return self._scalar(node, node.value, path, allowed)
        return node

    def _key(self, key: str, mark: FilePosition, path: ConfigPath) -> str:
        if "${" not in key:
            return key
        if any(token.group() != "$${" for token in _TOKEN.finditer(key)):
            what = "`${...}` is not replaced in keys; write `$${` for a literal `${`"
            self.problems.append(mark.problem(path, what, "C007"))
        return key.replace("$${", "${")

    def _scalar(self, node: ScalarNode, text: str, path: ConfigPath, allowed: bool) -> ScalarNode:
        parts: list[str] = []
        variables: list[str] = []
        secret, end = False, 0
        for token in _TOKEN.finditer(text):
            parts.append(text[end : token.start()])
            end = token.end()
            if token.group() == "$${":
                parts.append("${")
                continue
            inner = token[1]
            if not allowed:
                self.problems.append(node.mark.problem(path, _FORBIDDEN, "C007"))
                return node
            try:
                if token[2] is None:
                    raise ValueError("`${` is not closed by `}`; write `$${` for a literal `${`")
                value = self._file(inner[5:]) if inner.startswith("file:") else self._variable(inner)
            except ValueError as error:
                self.problems.append(node.mark.problem(path, str(error), "C007"))
                # The problem is reported; marking the value as secret keeps it out of later messages
                return replace(node, variables=(inner,), secret=True)
            parts.append(value)
            name = inner if inner.startswith("file:") else inner.partition(":")[0]
            variables.append(name)
            secret = secret or inner.startswith("file:") or _SECRET_NAME.search(name) is not None
        parts.append(text[end:])
        return ScalarNode("".join(parts), node.mark, tuple(variables), secret)

    def _variable(self, inner: str) -> str:
        found = _VARIABLE.fullmatch(inner)
        if found is None:
            raise ValueError(f"`${{{inner}}}` is not one of ${{NAME}}, ${{NAME:-default}} and ${{file:NAME}}")
        name, default = found.groups()
        value = self.environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value

    def _file(self, name: str) -> str:
        if self.secrets is None:
            raise ValueError("`${file:...}` needs `ops.secrets_dir`, the directory of such files")
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"`${{file:{name}}}` must name a file below {self.secrets}")
        try:
            file = (self.secrets / name).resolve(strict=True)
            if not file.is_relative_to(self.secrets.resolve()):
                raise ValueError(f"`${{file:{name}}}` leads out of {self.secrets}")
            text = read_file(file, MAX_SECRET).decode()
        except FileNotFoundError:
            raise ValueError(f"`${{file:{name}}}`: there is no such file below {self.secrets}") from None
        except UnicodeDecodeError:
            raise ValueError(f"`${{file:{name}}}` is not UTF-8") from None
        except FileProblem as problem:
            raise ValueError(f"`${{file:{name}}}` is {problem.strerror}") from None
        except (OSError, RuntimeError) as error:
            cause = getattr(error, "strerror", None) or type(error).__name__
            raise ValueError(f"`${{file:{name}}}` cannot be read: {cause}") from None
        return text.removesuffix("\n").removesuffix("\r")


def interpolate(
    document: MappingNode,
    environ: Mapping[str, str],
    resolve: Callable[[FilePosition, str], Path],
    problems: list[Problem],
) -> MappingNode:
    """Replace `${...}` in the sections that permit it. In all other sections it is a problem.

    resolve: returns the absolute path for a relative path written at a given place.
    """
    settings = _Interpolation(environ, problems, None)
    directory = find(document, ("ops", "secrets_dir"))
    if isinstance(directory, ScalarNode) and isinstance(directory.value, str):
        # The walk below finds and reports the problems of this value again
        known = _Interpolation(environ, [], None).walk(directory, (), allowed=True)
        if isinstance(known, ScalarNode) and isinstance(known.value, str) and known.value:
            settings.secrets = resolve(directory.mark, known.value)
    entries = {key: settings.walk(value, (key,), allowed=key in SECTIONS) for key, _, value in document.items()}
    return MappingNode(entries, document.keys, document.mark)
