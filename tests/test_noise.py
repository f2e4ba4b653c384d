"""Random streams that no two samples share."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.noise import Streams

SEEDS = [0, 1, 2, 3, 17, 2**31, 2**32, 2**32 + 1, 2**63 + 5]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_no_two_pairs_of_seed_and_sample_share_a_stream(kind):
    like = torch.empty(len(SEEDS) * 7, 400)
    found = getattr(Streams(SEEDS, 7), kind)(like).double()
    correlation = torch.corrcoef(found) - torch.eye(len(like))
    # Deviation .05 for independent rows, 2000 pairs; rows of one stream have 1.
    assert float(correlation.abs().max()) < 0.3
    # The control: two images of one seed do share theirs.
    twins = getattr(Streams([3, 3], 2), kind)(torch.empty(4, 400))
    assert torch.equal(twins[:2], twins[2:]) and not torch.equal(twins[0], twins[1])


def test_a_stream_goes_on_and_does_not_repeat():
    streams = Streams([0, 1], 2)
    found = torch.cat([streams.normal(torch.empty(4, 400)) for _ in range(4)]).double()
    assert float((torch.corrcoef(found) - torch.eye(16)).abs().max()) < 0.3


def test_sample_s_of_an_image_is_the_same_in_every_set():
    like = torch.empty(15, 9)
    whole = Streams([5, 6, 7], 5).normal(like).reshape(3, 5, 9)
    assert torch.equal(Streams([6], 5).normal(like[:5]), whole[1])
    assert torch.equal(Streams([7, 5], 2, first_sample=3).normal(like[:4]).reshape(2, 2, 9), whole[[2, 0], 3:])
    assert not torch.equal(Streams([6], 2).normal(like[:2]), whole[1, 3:])  # the control


def test_the_number_of_an_image_is_of_no_sample_and_of_no_other_image():
    seeds = SEEDS[:6]
    streams = Streams(seeds, 6)
    numbers = torch.cat([streams.uniform_per_image(), streams.uniform_per_image()])
    samples = Streams(seeds, 6).uniform(torch.empty(len(seeds) * 6, 2)).flatten()
    every = torch.cat([numbers, samples])
    assert len(every.unique()) == len(every)
    assert torch.equal(Streams(seeds[2:], 1).uniform_per_image(), numbers[2 : len(seeds)])
