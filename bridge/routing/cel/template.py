"""Templates: literal text with CEL expressions in `{{ }}`.

To write two literal braces, write them as an expression: `{{ '{{' }}`.
"""

from __future__ import annotations

from bridge.core.errors import ConfigPath, ExpressionError
from bridge.routing.cel.expression import ROUTE, Compiler, Expression
from bridge.routing.cel.scope import ExpressionScope
from bridge.routing.cel.tokens import closing_braces


class Template:
    """A compiled template."""

    __slots__ = ("_parts", "_where")

    def __init__(self, parts: tuple[str | Expression, ...], where: str) -> None:
        self._parts = parts
        self._where = where

    @property
    def constant_prefix(self) -> str:
        """Literal text at the beginning of the template."""
        return self._parts[0] if self._parts and isinstance(self._parts[0], str) else ""

    @property
    def literal(self) -> str | None:
        """Whole text if the template has no expression, else None."""
        return "".join(map(str, self._parts)) if all(isinstance(part, str) for part in self._parts) else None

    def render(self, scope: ExpressionScope) -> str:
        """Render the template.

        Raises: ExpressionError if an expression fails or is not text, or the text is not Unicode.
        """
        rendered = "".join([part if isinstance(part, str) else part.text(scope) for part in self._parts])
        if not rendered.isascii():
            try:
                rendered.encode()
            except UnicodeEncodeError:
                raise ExpressionError(
                    f"{self._where}: the text holds a lone surrogate, which is not Unicode", self._where
                ) from None
        return rendered


def constant_prefix(text: str) -> str:
    """Literal text at the beginning of a template's source."""
    return text.partition("{{")[0]


def literals(text: str) -> list[str]:
    """Literal parts of a template's source, outside of its expressions."""
    return _parts(text)[0]


def expressions(text: str) -> list[str]:
    """Expressions of a template's source."""
    return _parts(text)[1]


def _parts(text: str) -> tuple[list[str], list[str]]:
    """Literal parts, and the expressions between them. Both end before braces that are not closed."""
    around: list[str] = []
    inside: list[str] = []
    position = 0
    while (opening := text.find("{{", position)) >= 0:
        around.append(text[position:opening])
        closing = closing_braces(text, opening + 2)
        if closing < 0:
            return around, inside
        inside.append(text[opening + 2 : closing].strip())
        position = closing + 2
    return [*around, text[position:]], inside


def compile_template(
    text: str, path: ConfigPath, where: str, compiler: Compiler, names: frozenset[str] = ROUTE
) -> Template | None:
    """Compile a template; None after its problems were reported to the compiler."""
    parts: list[str | Expression] = []
    position = 0
    sound = True
    while (opening := text.find("{{", position)) >= 0:
        if opening > position:
            parts.append(text[position:opening])
        closing = closing_braces(text, opening + 2)
        if closing < 0:
            compiler.report(path, f"a {{{{ is not closed by }}}}\n  {text}\n  {' ' * opening}^", "R002", opening)
            return None
        inner = text[opening + 2 : closing]
        source = inner.strip()
        if not source:
            what = f"there is no expression between the braces\n  {text}\n  {' ' * opening}^"
            compiler.report(path, what, "R002", opening)
            return None
        start = opening + 2 + len(inner) - len(inner.lstrip())
        expression = compiler.text(source, path, where, names, start)
        if expression is None:
            sound = False
        else:
            parts.append(expression)
        position = closing + 2
    if position < len(text):
        parts.append(text[position:])
    return Template(tuple(parts), where) if sound else None
