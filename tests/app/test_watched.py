"""A run in tiles on the page: what is said between two levels, and that closing it ends the run within a tile."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from ambient_solve.app.watched import watched
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.priors.tiled import TiledPrior

TILES = 16
"""Of a picture of 40 x 40 in tiles of 16 that share 6 pixels."""


class Slow(Prior):
    """A network that waits for a tenth of a second."""

    shape, sigma_min, sigma_max = (1, -1, -1), 0.01, 80.0

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def denoise(self, z, sigma, cond=None):
        self.calls += 1
        time.sleep(0.1)
        return z / 2


def levels(tiled: TiledPrior, count: int):
    z = Streams([0], 1).normal(torch.empty(1, 1, 40, 40))
    for _ in range(count):
        z = tiled.denoise(z, 1.0)
        yield z


def test_tiles_are_said_between_levels_and_the_states_are_those_of_the_run():
    tiled = TiledPrior(Slow(), 16, 6, at_once=1)
    said = list(watched(levels(tiled, 2), tiled, 0.02))
    states = [thing for thing in said if isinstance(thing, torch.Tensor)]
    counts = [thing for thing in said if isinstance(thing, int)]
    assert len(states) == 2 and torch.equal(states[1], list(levels(TiledPrior(Slow(), 16, 6), 2))[1])
    assert len(counts) > 4 and isinstance(said[0], int) and 0 <= min(counts) and max(counts) <= 2 * TILES
    assert tiled.watch is None


def test_closing_ends_the_run_within_a_tile():
    prior = Slow()
    tiled = TiledPrior(prior, 16, 6, at_once=1)
    run = watched(levels(tiled, 50), tiled, 0.02)
    assert isinstance(next(run), int)
    before = prior.calls
    run.close()
    assert prior.calls <= before + 1 and prior.calls < TILES
    assert not any(thread.name == "run in tiles" for thread in threading.enumerate())


def test_what_goes_wrong_is_raised_where_the_run_is_waited_for():
    def wrong():
        yield 1.0
        raise ValueError("diverged")

    run = watched(wrong(), TiledPrior(Slow(), 16, 6), 1.0)
    assert next(run) == 1.0
    with pytest.raises(ValueError, match="diverged"):
        next(run)


def test_a_whole_picture_needs_no_thread():
    before = threading.active_count()
    run = watched(iter([1.0, 2.0]), None, 0.01)
    assert next(run) == 1.0 and threading.active_count() == before and list(run) == [2.0]
