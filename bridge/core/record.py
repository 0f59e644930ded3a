"""Dataclasses for values that are made for every message.

For the type checker `record` is `dataclasses.dataclass`: fields with `frozen=True` cannot be assigned. At run time
freezing is left out: it makes every field of an object several times as expensive as the object itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen, slots):
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["record"]
