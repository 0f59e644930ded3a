from __future__ import annotations

from bridge.pipeline.fuse import Fuse


def test_the_limit_passes_one_more_blows_it_for_good() -> None:
    fuse = Fuse(3, window=60)
    assert [fuse.allow(now, now) for now in (0, 1, 2)] == [True, True, True]
    assert not fuse.allow(59.9, 3)
    assert fuse.blown
    assert not fuse.allow(10_000, 4)


def test_a_slow_trickle_never_blows_it() -> None:
    fuse = Fuse(3, window=60)
    assert all(fuse.allow(now * 20.0, now) for now in range(1000))


def test_a_message_that_comes_again_counts_once() -> None:
    fuse = Fuse(3, window=60)
    assert all(fuse.allow(now * 0.1, now % 3) for now in range(500))
    assert not fuse.allow(50.0, 3)
