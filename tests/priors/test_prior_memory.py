"""What a prior says that it takes: the model by which samples are drawn together, or in tiles."""

from __future__ import annotations

import pytest
import torch

from ambient_solve import GaussianPrior, NetworkConfig, NetworkPrior
from ambient_solve.priors.tiled import TiledPrior

CONFIG = NetworkConfig(widths=(8, 16), blocks=(1, 3), groups=4, embedding=16, unshuffle=2)


def test_a_network_counts_its_channels_at_each_resolution():
    prior = NetworkPrior(CONFIG)
    channels = (8 * 1 + 16 * 3 / 4) / 4
    assert prior.memory(100, backward=False) == pytest.approx(100 * 800 * channels / 20.75)
    assert prior.memory(100, backward=True) == pytest.approx(100 * 2700 * channels / 20.75)
    assert prior.memory(300, backward=True) == pytest.approx(3 * prior.memory(100, backward=True))


@pytest.mark.parametrize(
    ("size", "mask_channels", "tiles"), [(None, 0, True), ((32, 32), 0, True), ((32, 48), 0, False), (None, 1, False)]
)
def test_which_networks_take_tiles(size, mask_channels, tiles):
    from dataclasses import replace

    assert NetworkPrior(replace(CONFIG, size=size, mask_channels=mask_channels)).takes_tiles(32) == tiles


def test_a_prior_that_does_not_say_is_not_guessed_at():
    prior = GaussianPrior(torch.zeros(3, 4, 4), torch.eye(48))
    prior.config = CONFIG  # what others call config says nothing of memory
    assert prior.memory(100, backward=True) is None and not prior.takes_tiles(32)


def test_tiles_take_the_memory_of_those_at_work_together():
    inner = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4))
    tiled = TiledPrior(inner, 16, 4, at_once=2)
    assert tiled.memory(10**6, True) == inner.memory(2 * 16**2, True) < inner.memory(10**6, True)
    assert tiled.memory(100, False) == inner.memory(100, False) and not tiled.takes_tiles(16) and inner.takes_tiles(16)
