"""The price of a run before it is begun: passes, tiles and memory are those of the run; larger pictures cost more."""

from __future__ import annotations

import pytest

from ambient_solve import Solver, load_prior, operators
from ambient_solve.priors.tiled import TiledPrior
from ambient_solve.restore.memory import OVERLAP, TILE
from ambient_solve.restore.price import Price, cost, price, spoken
from helpers import rand
from test_restore import tiny


@pytest.mark.parametrize("settings", [{"steps": 3}, {"algorithm": "mmps", "steps": 3, "covariance_noise": False}])
def test_passes_are_those_of_a_run(settings):
    settings = {"algorithm": "proximal"} | settings
    solver = Solver(tiny(), **settings)
    op = operators.gaussian_blur((3, 32, 32), 1.0, 0.05)
    run = solver.solve(op.A(rand(1, 3, 32, 32)), op, n_samples=1, progress=False)
    assert cost(solver) == (run.network_calls, run.vjps)


def test_a_price_grows_with_pixels_and_samples_and_counts_the_tiles():
    solver = Solver(tiny(), "proximal", steps=2)
    small, large = (price(solver, n, n, 2, second=1e-6) for n in (200, 1000))
    assert small.tiles == 1 and large.tiles == TiledPrior(solver.prior, TILE, OVERLAP).tiles(1000, 1000)
    assert small.seconds == pytest.approx(2 * 2 * 200**2 * 1e-6)
    assert large.seconds == pytest.approx(2 * 2 * large.tiles * TILE**2 * 1e-6) and large.memory > small.memory
    assert price(solver, 1000, 1000, 4, second=1e-6).seconds == pytest.approx(2 * large.seconds)
    assert price(solver, 64, 64, 1).seconds > 0


def test_twelve_megapixels_fit_into_24_gib():
    """With the settings of the command line, in tiles, one sample at a time."""
    solver = Solver(load_prior("photos"), "proximal", steps=25)
    assert price(solver, 3000, 4000, 1, second=1e-6).memory < 24 * 2**30
    whole = solver.prior.memory(3000 * 4000, backward=True)  # the control
    assert whole > 24 * 2**30


def test_a_price_is_said_as_people_say_it():
    words = Price(1500, 2000, 80, 720.0, 3.1e9).words
    assert words == "2000x1500 pixels in 80 tiles: about 12 minutes and 3.1 GB"
    assert (spoken(0.2), spoken(75), spoken(7200)) == ("1 seconds", "75 seconds", "2.0 hours")
