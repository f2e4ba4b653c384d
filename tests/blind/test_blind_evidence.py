"""The evidence of a blur against the density of the Gaussian that it is, and intervals against draws of their law."""

from __future__ import annotations

import math

import pytest
import torch

from ambient_solve import AmbientSolveError, operators
from ambient_solve.blind import PHOTOGRAPHS, Family, SpectralLaw, Unknown, estimate_blur
from ambient_solve.blind.spectrum import frequencies, periodogram, response, terms
from helpers import one_sentence, randn

SIDE = 16


def spectrum(side: int, coefficients: torch.Tensor) -> torch.Tensor:
    """exp(phi'c) on the whole grid of frequencies, nothing at the mean."""
    across = torch.fft.fftfreq(side, dtype=torch.float64)
    radius, direction = (across**2 + across[:, None] ** 2).sqrt(), torch.atan2(across[:, None], across[None])
    power = (terms(radius.flatten(), direction.flatten()) @ coefficients).exp().reshape(side, side)
    power[0, 0] = 0
    # The terms of a direction differ between +1/2 and -1/2, which are one frequency: the mean makes it symmetric.
    index = -torch.arange(side) % side
    return (power + power[index][:, index]) / 2


def drawn(power: torch.Tensor, seed: int) -> torch.Tensor:
    """A stationary Gaussian with this spectrum that repeats at its edges, (1, 1, n, n)."""
    white = torch.fft.fft2(randn(*power.shape, seed=seed, dtype=torch.float64))
    return torch.fft.ifft2(white * power.sqrt()).real[None, None]


def law(spread: float, **settings) -> SpectralLaw:
    mean = torch.zeros(10, dtype=torch.float64)
    mean[0], mean[1] = -2.0, -2.0
    return SpectralLaw(mean, spread**2 * torch.eye(10, dtype=torch.float64), **settings)


def several(img_size: tuple[int, int, int], a: float, b: float, c: float):
    """A builder of three numbers, which is never called."""


def blurs(sigma: float | Unknown = 0.05, lo: float = 0.3, hi: float = 3.0) -> Family:
    return Family(operators.gaussian_blur, width=Unknown(lo, hi), sigma=sigma)


def test_the_evidence_is_the_density_of_the_gaussian():
    """Where the spectrum is known: N(y; 0, A C A' + sigma^2 I) with dense matrices, up to a constant."""
    known, widths, sigma = law(1e-6, windowed=False), (0.5, 0.8, 1.3, 2.0), 0.1
    power = spectrum(SIDE, known.mean)
    y = drawn(power, seed=1)
    impulses = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, SIDE, SIDE)
    roots = torch.fft.ifft2(torch.fft.fft2(impulses) * power.sqrt()).real.reshape(SIDE**2, -1)
    without_mean = torch.linalg.qr(torch.eye(SIDE**2).double() - 1 / SIDE**2)[0][:, :-1]
    dense, family = [], blurs(sigma)
    for width in widths:
        op = operators.gaussian_blur((1, SIDE, SIDE), width, sigma)
        blurred = op.A(roots.reshape(-1, 1, SIDE, SIDE).float()).double().flatten(1)
        covariance = without_mean.T @ (blurred.T @ blurred + sigma**2 * torch.eye(SIDE**2)) @ without_mean
        covariance = (covariance + covariance.T) / 2
        normal = torch.distributions.MultivariateNormal(torch.zeros(SIDE**2 - 1).double(), covariance)
        dense.append(normal.log_prob(without_mean.T @ y.flatten()))
    kernels, sigmas = zip(*(family.kernel({"width": w}) for w in widths), strict=True)
    found = known.log_evidence(y[0], kernels, sigmas)
    dense = torch.stack(dense)
    print(found - found[0], dense - dense[0])
    torch.testing.assert_close(found - found[0], dense - dense[0], atol=1e-3, rtol=1e-4)
    assert float((dense - dense[0]).abs().max()) > 1  # the widths differ


def test_the_response_of_a_window_is_the_mean_periodogram():
    """Of white noise that is blurred; the plain response of the kernel is the control."""
    family = Family(operators.line_blur, length=Unknown(2, 20), angle=Unknown(0, 180, periodic=True), sigma=0.0)
    kernel, _ = family.kernel({"length": 9.0, "angle": 30.0})
    white = randn(400, 1, 74, 74, seed=2, dtype=torch.float64)
    flipped = kernel.double().flip(0, 1)[None, None]
    power = torch.stack([periodogram(y[0]) for y in torch.nn.functional.conv2d(white, flipped)[..., :64, :64]]).mean(0)
    expected = response(kernel, 64, 64)
    plain = torch.fft.fft2(kernel.double(), s=(64, 64)).abs() ** 2
    chosen = frequencies(64, 64, 2.5).chosen
    off = [((power / r).log()[chosen] ** 2).mean().sqrt() for r in (expected, plain)]
    print("rms of the logarithm, windowed and plain:", off)
    assert off[0] < 0.07 and off[1] > 0.3  # 400 draws: 1 / sqrt(400) = .05


@pytest.mark.parametrize("spread", [0.02, 0.4])
def test_intervals_hold_the_truth_as_often_as_they_state(spread):
    """Draws of the law itself, widths of the range: coverage of 90 % intervals, within three binomial deviations."""
    own, inside, short, draws = law(spread, windowed=False), 0, 0, 100
    family = blurs()
    for i in range(draws):
        c = own.mean + spread * randn(10, seed=1000 + i, dtype=torch.float64)
        width = family.unknown["width"].value(math.log(0.3) + math.log(10) * (i + 0.5) / draws)
        kernel, sigma = family.kernel({"width": width})
        sharp = drawn(spectrum(32, c), seed=i)
        y = torch.fft.ifft2(torch.fft.fft2(sharp) * response_root(kernel, 32)).real
        y = y + sigma * randn(*y.shape, seed=5000 + i, dtype=torch.float64)
        found = estimate_blur(y, family, law=own)
        low, high = found.intervals["width"]
        inside += low <= width <= high
        middle = math.sqrt(low * high)
        short += (low * middle) ** 0.5 <= width <= (high * middle) ** 0.5
    print(f"{inside} of {draws} inside, {short} inside of intervals half as long")
    assert abs(inside - 0.9 * draws) <= 3 * math.sqrt(0.09 * draws)
    assert short < 0.9 * draws - 3 * math.sqrt(0.09 * draws)


def response_root(kernel: torch.Tensor, side: int) -> torch.Tensor:
    whole = torch.zeros(side, side, dtype=torch.float64)
    rows = torch.arange(kernel.shape[0]) % side
    whole.index_put_((rows[:, None], rows[None]), kernel.double(), accumulate=True)
    return torch.fft.fft2(whole)


def test_the_noise_level_is_estimated_together_with_the_width():
    own, sigma = law(0.3, windowed=False), 0.07
    family = Family(operators.gaussian_blur, width=Unknown(0.3, 3), sigma=Unknown(0.005, 0.5))
    kernel, _ = family.kernel({"width": 1.2, "sigma": sigma})
    y = torch.fft.ifft2(torch.fft.fft2(drawn(spectrum(64, own.mean), 3)) * response_root(kernel, 64)).real
    found = estimate_blur(y + sigma * randn(*y.shape, seed=4, dtype=torch.float64), family, law=own)
    print(found.words)
    assert abs(found.values["sigma"] / sigma - 1) < 0.1 and abs(found.values["width"] / 1.2 - 1) < 0.2
    assert not found.at_end


def test_a_direction_is_estimated_across_the_end_of_its_period():
    own = law(0.2, windowed=False)
    family = Family(operators.line_blur, length=Unknown(2, 20), angle=Unknown(0, 180, periodic=True), sigma=0.02)
    kernel, _ = family.kernel({"length": 9.0, "angle": 179.0})
    y = torch.fft.ifft2(torch.fft.fft2(drawn(spectrum(64, own.mean), 5)) * response_root(kernel, 64)).real
    found = estimate_blur(y + 0.02 * randn(*y.shape, seed=6, dtype=torch.float64), family, law=own)
    print(found.words)
    assert abs((found.values["angle"] - 179 + 90) % 180 - 90) < 3 and abs(found.values["length"] / 9 - 1) < 0.1
    low, high = found.intervals["angle"]
    assert low < high and high - low < 10


def test_a_truth_outside_of_the_range_is_said():
    own = law(0.2, windowed=False)
    kernel, _ = blurs(hi=6.0).kernel({"width": 4.0})
    y = torch.fft.ifft2(torch.fft.fft2(drawn(spectrum(64, own.mean), 7)) * response_root(kernel, 64)).real
    y = y + 0.05 * randn(*y.shape, seed=8, dtype=torch.float64)
    inside, outside = estimate_blur(y, blurs(0.05, 0.3, 8.0), law=own), estimate_blur(y, blurs(0.05, 0.3, 2.0), law=own)
    assert outside.at_end == ("width",) and "end of its range" in outside.words
    assert inside.at_end == () and "end" not in inside.words


def test_a_law_is_found_again_from_its_draws():
    """A law fitted to draws of one: its mean within three deviations, and not that of photographs."""
    own, n = law(0.3, windowed=False), 40
    pictures = []
    for i in range(n):
        c = own.mean + 0.3 * randn(10, seed=i, dtype=torch.float64)
        pictures.append(drawn(spectrum(128, c), seed=100 + i)[0])
    found = SpectralLaw.fit(pictures)
    off = (found.mean - own.mean) / (found.covariance.diagonal() / n).sqrt()
    print(off)
    assert float(off[:6].abs().max()) < 4 and float((PHOTOGRAPHS.mean - own.mean)[0].abs()) > 1
    with pytest.raises(AmbientSolveError, match="at least 30"):
        SpectralLaw.fit(pictures[:3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Unknown(3, 1), "smaller one first"),
        (lambda: Unknown(0, math.inf), "smaller one first"),
        (lambda: Unknown(True, 3), "smaller one first"),
        (lambda: Family(operators.gaussian_blur, width=2.0), "no unknown"),
        (lambda: Family(operators.gaussian_blur, breadth=Unknown(1, 2)), "breadth"),
        (lambda: Family(operators.inpaint, sigma=Unknown(1, 2)), "img_size"),
        (lambda: estimate_blur(torch.zeros(3, 8, 8), blurs()), "batch of pictures"),
        (
            lambda: estimate_blur(torch.zeros(1, 1, 8, 8), blurs(Unknown(0.01, 0.1)), sigma_y=0.1),
            "leave one of them out",
        ),
        (
            lambda: estimate_blur(torch.zeros(1, 1, 8, 8), Family(several, **dict.fromkeys("abc", Unknown(1, 2)))),
            "at most 2",
        ),
        (
            lambda: estimate_blur(torch.zeros(1, 3, 32, 32), Family(operators.quantize, sigma=Unknown(0.1, 1))),
            "not a blur",
        ),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        make()
    assert one_sentence(error)
