"""Values that are made for every message.

For the type checker `record` is `dataclasses.dataclass`, and what says `frozen=True` cannot be assigned to. At run time
the freezing is left out: it makes every field of every object several times as dear as the object itself.
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
