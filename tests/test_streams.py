"""The random streams: the same numbers on every machine, their law, and who shares them with whom."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from ambient_solve.noise import Streams

WRITTEN = [
    [0.8080401, 1.6894926, -0.4045818, 0.7381011, 0.9470867],
    [-0.5270879, 0.4374655, 0.1726159, 0.7449991, 0.3664131],
]


def normal(*shape: int, seeds=(0,), samples=1, first=0, dtype=torch.float32) -> torch.Tensor:
    return Streams(list(seeds), samples, first_sample=first).normal(torch.empty(shape, dtype=dtype))


def test_a_seed_gives_these_numbers_on_every_machine():
    """Written down once, to five digits: what a CPU, its libraries or another generator would change."""
    streams = Streams([7], 2)
    found = torch.cat([streams.normal(torch.empty(2, 3)), streams.uniform(torch.empty(2, 2))], 1)
    torch.testing.assert_close(found, torch.tensor(WRITTEN), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_normal_numbers_are_normal_and_independent(count):
    """Kolmogorov and Smirnov, fourth moment; correlation of neighbours, of the two of a pair, and of streams."""
    n = 40_000 // count
    streams = Streams([3], 2)
    x = torch.stack([streams.normal(torch.empty(2, count)) for _ in range(n)], 1).double()  # (2, n, count)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float((x**4).mean()) - 3) < 4.5 * math.sqrt(96 / x.numel())
    flat = x.flatten(1)
    for a, b in ((flat[0], flat[1]), (flat[0, 1:], flat[0, :-1]), (flat[0].square(), flat[1].square())):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4.5 / math.sqrt(len(a))
    half = -(-count // 2)
    if count > half:
        pair = torch.stack([x[0, :, 0], x[0, :, half]]).abs()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 / math.sqrt(n)


def test_uniform_numbers_are_uniform_and_below_one():
    u = Streams([0], 1).uniform(torch.empty(1, 50_000))[0]
    assert 0 <= float(u.min()) and float(u.max()) < 1 and stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_every_sample_of_every_image_has_a_stream_of_its_own():
    """(seed, sample) pairs differ from one another, also where seed and sample are exchanged; images differ too."""
    seeds = [0, 1, 2, 2**32, 1 + 2**32, 2 + 3 * 2**32, 10**12, 10**30]
    rows = torch.cat([normal(3, 64, seeds=[seed], samples=3) for seed in seeds])
    images = [Streams([seed], 1)._bits(Streams([seed], 1)._images, 64)[0] for seed in seeds]
    samples = [Streams([seed], 4)._bits([stream], 64)[0] for seed in seeds for stream in Streams([seed], 4)._samples]
    assert len({tuple(bits.tolist()) for bits in images + samples}) == len(images + samples)
    apart = (rows[:, None] - rows).abs().amax(2) + torch.eye(len(rows))
    assert float(apart.min()) > 0.5
    choices = Streams([0, 1], 3).uniform_per_image()
    assert choices.shape == (2,) and choices[0] != choices[1]


def test_a_sample_does_not_depend_on_its_batch():
    together = normal(6, 5, seeds=[4, 9], samples=3)
    assert torch.equal(together[3:], normal(3, 5, seeds=[9], samples=3))
    assert torch.equal(together[1:3], normal(2, 5, seeds=[4], samples=2, first=1))
    assert not torch.equal(together[:3], together[3:])


def test_a_stream_goes_on():
    """Two draws in turn are neither the same nor do they depend on what shape the first had in memory."""
    streams = Streams([0], 1)
    first, second = (streams.normal(torch.empty(1, 4)) for _ in range(2))
    assert not torch.equal(first, second)
    other = Streams([0], 1)
    assert torch.equal(other.normal(torch.empty(1, 2, 2)).flatten(), first.flatten())
    assert torch.equal(other.normal(torch.empty(1, 4)), second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_draws_the_same_numbers(dtype):
    found = normal(1, 100, dtype=dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), normal(1, 100, dtype=torch.float64), atol=0.02, rtol=0.01)


def test_rows_and_streams_must_agree():
    with pytest.raises(ValueError, match="3 rows was asked of 2 streams"):
        normal(3, 2, samples=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_numbers_of_a_cpu():
    there = Streams([5], 2, "cuda").normal(torch.empty(2, 1000, device="cuda"))
    torch.testing.assert_close(there.cpu(), normal(2, 1000, seeds=[5], samples=2), atol=1e-5, rtol=1e-5)
