"""Random streams that no two samples share."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.noise import Streams, _philox32

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


ANSWERS = {
    (0, 0, 0, 0, 0, 0): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    (0xFFFFFFFF,) * 6: "408f276d 41c83b0e a20bc7c6 6d5451fd",
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): "d16cfe09 94fdcceb 5001e420 24126ea1",
}
"""What the authors of Philox 4x32-10 publish: counter and key, and the four words."""


@pytest.mark.parametrize("given", ANSWERS)
def test_the_bits_by_address_are_those_of_philox(given):
    words = _philox32(torch.tensor(given[:4])[:, None], given[4:])
    assert " ".join(f"{int(word):08x}" for word in words) == ANSWERS[given]


def test_noise_by_address_is_white_whatever_the_order():
    address = torch.cartesian_prod(torch.arange(-20, 20), torch.arange(25), torch.tensor([3]), torch.tensor([0, 1]))
    streams = Streams([5, 6], 2)
    found = streams.addressed(address)
    assert torch.equal(found.flip(1), streams.addressed(address.flip(0)))
    assert torch.equal(found[2:], Streams([6], 2).addressed(address))
    assert len(found.unique()) > 0.999 * found.numel()  # of 2^55 pairs of words, rounded to float32
    rows = torch.cat([*found.movedim(2, 0)]).double()  # 16 rows of 2000: of four streams, each at four places
    assert float((torch.corrcoef(rows) - torch.eye(16)).abs().max()) < 0.15  # deviation .022
    assert abs(float(found.mean())) < 0.03 and abs(float(found.var()) - 1) < 0.04  # deviations .0056, .0079
    other = address + torch.tensor([0, 0, 1, 0])
    assert float((streams.addressed(other) * found).mean().abs()) < 0.03
    assert not torch.equal(found[:2], found[2:])  # the control: two seeds


def test_a_branch_does_not_depend_on_what_was_drawn():
    like, streams = torch.empty(4, 400), Streams([3, 4], 2)
    first = [streams.branch(k).normal(like) for k in range(3)]
    own = streams.normal(like)
    assert torch.equal(streams.branch(1).normal(like), first[1])
    assert not torch.equal(streams.normal(like), own)  # the control: a stream does
    rows = torch.cat([*first, own]).double()
    assert float((torch.corrcoef(rows) - torch.eye(16)).abs().max()) < 0.3  # deviation .05
    per_image = Streams([3, 3], 2).branch(0).uniform_per_image()
    assert per_image.shape == (2,) and not torch.equal(per_image, Streams([3, 3], 2).uniform_per_image())
