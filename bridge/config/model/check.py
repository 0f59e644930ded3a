"""Configuration of `bridge check`."""

from __future__ import annotations

from pydantic import Field

from bridge.config.model.types import Model


class IgnoreWarningConfig(Model):
    """Suppression of one kind of warning of `bridge check`."""

    code: str = Field(pattern=r"^[A-Z][0-9]{3}$", description="Code of the warning, like `R017`.")
    at: str | None = Field(
        None,
        min_length=1,
        description="Entry whose warnings are suppressed, like `routes.start-order` or `brokers.local`; null: all.",
    )
    reason: str = Field(min_length=1, description="Reason, for readers of the configuration.")


class CheckConfig(Model):
    """Settings of `bridge check`. Nothing else reads them."""

    ignore: tuple[IgnoreWarningConfig, ...] = Field((), description="Suppressed warnings.")
