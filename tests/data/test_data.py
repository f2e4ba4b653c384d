"""Who may be used at which level, and batches that depend on (seed, step) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_solve.data.annotation import Admission, log_normal_levels
from ambient_solve.data.corruption import Corruption, corrupt
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from helpers import one_sentence

LEVELS = Levels(-0.9, 1.6, 0.01, 80.0)
BUFFER = (4 / 3) ** 0.5


def pictures(n: int, size: int = 24, channels: int = 3, seed: int = 0) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, size, size)
    return [(f"{i}.png", p) for i, p in enumerate(torch.randint(0, 256, shape, generator=generator).to(torch.uint8))]


# Who may be used where ---


def admitted(sigma_noise, sigma_min, sigma_max, sigma: float) -> np.ndarray:
    """The rule, by brute force."""
    return (sigma > BUFFER * sigma_noise) & ((sigma > sigma_min) | (sigma < sigma_max))


def annotations(n: int = 60, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Clean, noisy, only-above, only-below, both and everywhere-admitted samples, with uneven shares, some 0."""
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 6, n)
    kind[:6] = range(6)
    noise = np.where(np.isin(kind, (1, 5)), draw.uniform(0.05, 0.5, n), 0.0)
    low = np.where(np.isin(kind, (2, 4)), draw.uniform(0.3, 3, n), np.where(kind == 3, np.inf, 0.0))
    high = np.where(np.isin(kind, (3, 4)), draw.uniform(0.05, 0.29, n), np.where(kind == 5, 5.0, 0.0))
    share = draw.uniform(0, 1, n) * (draw.random(n) > 0.1)
    share[:6] = 0.5
    return noise, low, high, share


def test_draw_agrees_with_brute_force():
    noise, low, high, share = annotations()
    admission = Admission(noise, low, high, share, BUFFER)
    u = (np.arange(20_000) + 0.5) / 20_000
    for sigma in (0.01, 0.07, 0.2, 0.31, 0.9, 4.0, 6.0, 80.0):
        chosen = admission.draw(np.full(len(u), sigma), u)
        chance = share * admitted(noise, low, high, sigma)
        found = np.bincount(chosen, minlength=len(share)) / len(u)
        # A grid of 20000 numbers meets each interval of u to within one grid point at either end.
        np.testing.assert_allclose(found, chance / chance.sum(), atol=1.01 / len(u))
        assert not found[chance == 0].any()


def test_draw_at_thresholds_and_at_the_ends_of_u():
    noise, low, high, share = annotations(seed=1)
    admission = Admission(noise, low, high, share, BUFFER)
    borders = np.concatenate([BUFFER * noise, low[np.isfinite(low)], high])
    u = np.array([0.0, 0.5, np.nextafter(1, 0)])
    for sigma in borders[borders > 0]:
        for s in (np.nextafter(sigma, 0), sigma, np.nextafter(sigma, np.inf)):
            chosen = admission.draw(np.full(3, s), u)
            assert (share * admitted(noise, low, high, s))[chosen].all()


def test_levels_keep_the_density_that_was_asked_for():
    """Drawing the level first: ln sigma is the truncated normal, however few samples may be used at a level."""
    noise = np.where(np.arange(50) < 5, 0.0, 0.2)
    samples = [Sample(str(i), torch.zeros(1, 8, 8).half(), float(s)) for i, s in enumerate(noise)]
    loader = Loader(samples, np.ones(50), LEVELS, crop=8, buffer=BUFFER, batch=256, seed=0)
    batches = [loader(step)[0] for step in range(20)]
    log = torch.cat([b.sigma for b in batches]).log().sort().values.double().numpy()
    wanted = np.log(log_normal_levels((np.arange(len(log)) + 0.5) / len(log), -0.9, 1.6, 0.01, 80.0))
    # Quantile by quantile; the plain rejection of inadmissible pairs would move the median by more than .5.
    assert np.abs(log - wanted)[50:-50].max() < 0.05
    sigma, used = (torch.cat([getattr(b, k) for b in batches]) for k in ("sigma", "sigma_noise"))
    assert (sigma > BUFFER * used).all() and (used[sigma < 0.2] == 0).all()
    share = float((used[sigma > 1] == 0).float().mean())
    assert abs(share - 0.1) < 0.03
    # Control: the level of a batch drawn independently of the sample would often lie below the sample's noise.
    assert (sigma.flip(0) <= BUFFER * used).any()


def test_log_normal_levels_stay_in_range_and_have_the_right_median():
    u = np.linspace(0, 1, 1001)[:-1]
    sigma = log_normal_levels(u, -0.9, 1.6, 0.01, 80.0)
    assert (np.diff(sigma) > 0).all() and sigma[0] >= 0.01 * (1 - 1e-12) and sigma[-1] < 80
    assert abs(np.log(log_normal_levels(np.array([0.5]), 1.0, 0.5, 1e-6, 1e6))[0] - 1.0) < 1e-9


def test_impossible_admission_is_one_sentence():
    one, zero = np.ones(1), np.zeros(1)
    with pytest.raises(AmbientSolveError, match=r"No sample may be used at sigma = 0\.1") as error:
        Admission(0.2 * one, zero, zero, one, BUFFER).draw(np.array([1.0, 0.1]), np.array([0.5, 0.5]))
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="cannot also be admitted below"):
        Admission(0.1 * one, 1 * one, 0.5 * one, one, BUFFER)
    for share in (-1.0, np.nan):
        with pytest.raises(AmbientSolveError, match="share"):
            Admission(zero, zero, zero, share * one, BUFFER)
    noisy = [Sample("a", torch.zeros(1, 8, 8).half(), 0.2)]
    with pytest.raises(AmbientSolveError, match="between sigma = 0.01 and 0.2309") as error:
        Loader(noisy, one, LEVELS, crop=8, buffer=BUFFER, batch=4, seed=0)
    assert one_sentence(error)
    # A clean sample that is never drawn does not help.
    both = [*noisy, Sample("b", torch.zeros(1, 8, 8).half(), 0.0)]
    with pytest.raises(AmbientSolveError, match="between sigma"):
        Loader(both, np.array([1.0, 0.0]), LEVELS, crop=8, buffer=BUFFER, batch=4, seed=0)


# Batches ---


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(corrupt(pictures(30), 30, Corruption(clean_share=0.3)))


def loader(samples: list[Sample], seed: int = 0, batch: int = 12) -> Loader:
    return Loader(samples, np.ones(len(samples)), LEVELS, crop=16, buffer=BUFFER, batch=batch, seed=seed)


def numbers(batch, streams: Streams) -> list[Tensor]:
    return [batch.z, batch.sigma, batch.sigma_noise, batch.sigma_min, batch.sigma_max, streams.normal(batch.z)]


def test_batch_is_a_function_of_seed_and_step(samples):
    one, two = loader(samples), loader(samples)
    forward = [numbers(*one(step)) for step in range(4)]
    backward = [numbers(*two(step)) for step in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for other in (numbers(*one(5)), numbers(*loader(samples, seed=1)(0))):
        assert not any(torch.equal(forward[0][k], other[k]) for k in (0, 1, 5))


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_slices_of_rows_are_the_rows_of_the_whole_batch(samples, parts):
    whole = numbers(*loader(samples)(7))
    size = 12 // parts
    pieces = [numbers(*loader(samples)(7, slice(k * size, (k + 1) * size))) for k in range(parts)]
    for k, expected in enumerate(whole):
        assert torch.equal(torch.cat([p[k] for p in pieces]), expected)


def test_rows_are_crops_and_flips_of_the_stored_pictures(samples):
    seen_flip = seen_plain = 0
    for step in range(4):
        batch, _ = loader(samples)(step)
        assert batch.z.dtype == torch.float32 and batch.z.shape == (12, 3, 16, 16)
        for view, sigma_noise in zip(batch.z, batch.sigma_noise, strict=True):
            hits = [
                (s, flip)
                for s in samples
                for flip in (False, True)
                if (s.z.float().unfold(1, 16, 1).unfold(2, 16, 1) == (view.flip(-1) if flip else view)[:, None, None])
                .flatten(3)
                .all(3)
                .all(0)
                .any()
            ]
            assert len(hits) == 1 and hits[0][0].sigma_noise == pytest.approx(float(sigma_noise))
            seen_flip, seen_plain = seen_flip + hits[0][1], seen_plain + (not hits[0][1])
    assert seen_flip > 5 and seen_plain > 5


def test_noise_of_two_rows_and_two_steps_is_independent(samples):
    noise = [loader(samples)(step)[1].normal(torch.empty(12, 3, 16, 16)) for step in (0, 1)]
    flat = torch.cat(noise).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(24)
    # 768 numbers a row: a correlation has a standard error of .036; the largest of 276 stays below 4.5 of them.
    assert float(correlation.abs().max()) < 0.165


def test_loader_refuses_what_cannot_work(samples):
    for wrong, match in (
        ([Sample("tiny.png", torch.zeros(3, 15, 40).half(), 0.0)], "tiny.png is 40x15, smaller than the crop of 16"),
        ([Sample("grey", torch.zeros(1, 16, 16).half(), 0.0)], "channels"),
        (None, "No sample"),
    ):
        with pytest.raises(AmbientSolveError, match=match) as error:
            loader([] if wrong is None else [*samples, *wrong])
        assert one_sentence(error)
