from __future__ import annotations

from bridge.pipeline.fuse import Fuse


def test_the_limit_passes_one_more_blows_it_for_good() -> None:
    fuse = Fuse(3, window=60)
    assert [fuse.allow(now) for now in (0, 1, 2)] == [True, True, True]
    assert not fuse.allow(59.9)
    assert fuse.blown
    assert not fuse.allow(10_000)


def test_a_slow_trickle_never_blows_it() -> None:
    fuse = Fuse(3, window=60)
    assert all(fuse.allow(now * 20.0) for now in range(1000))
