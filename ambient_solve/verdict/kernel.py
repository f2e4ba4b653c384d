r"""How much wider or narrower a blur is than stated, from the spectrum of the measurement alone.

The power of photographs falls as a power of the frequency. With the stated blur `H` and noise level, windowed blocks of
a measurement have at the frequency f the mean power

    m(f) = e^a f^-p |H(f)|^(2 g) + e^b sigma^2,      g = 1 and b = 0 where both are as stated,

and the power itself is nearly exponential around it (Whittle, 1953, "Estimation and information in stationary time
series", Ark. Mat. 2). `a`, `p`, `g` and `b` are those of most likelihood, by Fisher scoring. Of a Gaussian blur
`|H|^(2 g)` is that of a blur `g^(1/2)` times as wide; of another one `g` is 0 where nothing is blurred as stated.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, DARKEST = 0.04, 1e-5
"""Frequency in cycles a pixel, and power of the blur, from which on the spectrum is fitted."""
MEAN = (0.0, 2.0, 1.0, 0.0)
"""Means of `a, p, g, b` beforehand; the second is that of photographs."""
PRECISION = (0.0, 4.0, 0.0, 1.0)
"""What is known of them beforehand, as 1 / variance: that p differs by .5 and b by 1."""
STARTS = (1.0, 0.1)
"""Values of g where a fit starts: the stated blur, and hardly any. The likelier outcome is taken."""
ROUNDS = 60
"""Most steps of Fisher scoring."""
FREQUENCIES = 20_000
"""Most frequencies that are fitted."""


def exponent(y: Tensor, power: Tensor, variance: float) -> tuple[float, float, float]:
    """`g`, its standard error, and the noise `e^b`; NaN where there is too little to fit.

    Args:
        y: One measurement, (C, H, W); the same gray one in all channels counts once.
        power: `|H|^2` at its frequencies, (H, W), in the order of `fft2`.
        variance: Of the noise of an entry.
    """
    y, power = y.double().cpu(), power.double().cpu()
    if len(y) > 1 and torch.equal(y, y[:1].expand_as(y)):
        y, variance = y[:1], variance / len(y)
    height, width = power.shape
    window = torch.outer(*(torch.hann_window(n, periodic=False, dtype=torch.float64) for n in (height, width)))
    spectrum = torch.fft.fft2((y - y.mean((1, 2), keepdim=True)) * window).abs().square().mean(0)
    grid = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    size = torch.hypot(*grid)
    fitted = (size >= LOWEST) & (size <= 0.5) & (power > DARKEST)
    step = -(-int(fitted.sum()) // FREQUENCIES)
    if not step:
        return torch.nan, torch.nan, torch.nan
    p, f, h = (t[fitted][::step] for t in (spectrum / window.square().sum(), size, power))
    design = torch.stack([torch.ones_like(f), -f.log(), h.log()], 1)
    # Over frequencies next to each other, which the window ties together, and over channels there are fewer numbers
    # than terms: errors are those of one for each of four frequencies.
    theta, information, _ = min((_fit(p, design, variance, g) for g in STARTS), key=lambda fit: fit[2])
    error = (4 * torch.linalg.inv(information)[2, 2]).sqrt()
    return float(theta[2]), float(error), float(theta[3].exp())


def _fit(p: Tensor, design: Tensor, variance: float, g: float) -> tuple[Tensor, Tensor, float]:
    """The likeliest `a, p, g, b` uphill from a `g`, their information, and less their logarithmic likelihood."""
    start, known = (torch.tensor(t, dtype=torch.float64) for t in (MEAN, PRECISION))
    theta, eye = start.clone(), torch.eye(len(start), dtype=torch.float64)
    theta[2] = g
    level = (p - variance).mean().clamp_min(1e-2 * variance) / (design @ theta[:3]).exp().mean()
    theta[0] = level.log()

    def parts(t: Tensor) -> tuple[Tensor, Tensor]:
        return (design @ t[:3]).clamp(-40, 20).exp(), variance * t[3].clamp(-40, 20).exp()

    def misfit(t: Tensor) -> Tensor:
        m = sum(parts(t))
        return (p / m + m.log()).sum() + (known * (t - start).square()).sum() / 2

    damping, now = 1e-2, misfit(theta)
    for _ in range(ROUNDS):
        signal, noise = parts(theta)
        m = signal + noise
        slopes = torch.cat([design * (signal / m)[:, None], (noise / m)[:, None]], 1)
        gradient = (1 - p / m) @ slopes + known * (theta - start)
        information = slopes.mT @ slopes + torch.diag(known)
        ridge = damping * torch.diag(information.diagonal()) + 1e-6 * eye
        moved = theta - torch.linalg.solve(information + ridge, gradient)
        then = misfit(moved)
        if then < now:
            gained, theta, now, damping = float(now - then), moved, then, damping / 3
            if gained < 1e-4:
                break
        else:
            damping *= 5
    return theta, information + 1e-9 * eye, float(now)
