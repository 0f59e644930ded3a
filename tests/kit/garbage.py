"""Garbage that only the cyclic collector frees, which a daemon rarely runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def no_frames_in_cycles() -> Iterator[None]:
    """Check that the block leaves no frame of the bridge in a reference cycle: a frame holds payloads."""
    gc.collect()
    # One collection leaves what finalizers of earlier garbage revive: a suspended generator's frames. Earlier objects
    # stay frozen afterwards: a collection of the million objects that pytest holds takes a second
    gc.freeze()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        frames = [each for each in gc.garbage if isinstance(each, FrameType)]
        assert {each.f_code.co_qualname for each in frames if "/bridge/" in each.f_code.co_filename} == set()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
