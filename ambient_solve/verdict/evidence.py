r"""What a finished run shows of whether its statement was right: numbers of each sample, with their known laws.

If the statement, the prior and the sampler are right, a posterior sample `x` and the true image have one and the same
joint law with `y`. The residual in units of the noise, `u = W^1/2 (y - A x)`, is then white Gaussian noise of variance
1, whatever the prior, so that over its n entries, and over the n_l pairs of them at the distance l,

    misfit           mean u^2                          mean 1, deviation sqrt(2 / n)
    autocorrelation  mean u_i u_(i+l) / mean u^2       mean 0, deviation sqrt(1 / n_l)

A learned prior and a short run come near these laws and do not keep them: what counts as wrong is measured, see
`thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ambient_solve.likelihood.ranges import PICTURES
from ambient_solve.verdict.blur import Spectra, spectra_of

if TYPE_CHECKING:
    from ambient_solve.likelihood import Likelihood

RANGE = (-0.02, 1.02)
"""Values, before clipping, between which pictures from 0 to 1 lie, with a little room for noise."""
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
"""Distances in rows and columns at which the residual is compared with itself."""
AWAY, LEAST = 2.0, 0.1
"""Standard deviations from 0 and 1 within which noise may have been cut off; share of the entries that must be left."""
MOST = 1_000_000
"""Most entries of a measurement of which a quantile is taken."""
FEWEST = 30
"""Frequencies, or steps between neighbors, of which a mean is taken at least."""
BLIND = 0.003
"""Power of a blur at the frequencies that it does not let through, at most."""
NEAR = 3
"""Pixels by which a mask may be shifted."""


@dataclass(frozen=True)
class Evidence:
    """Numbers of each sample, the leading axes (B, S); NaN where they have no meaning for the measurement.

    Attributes:
        entries: Entries n of the measurement that see anything.
        misfit: Mean squared residual in units of the noise, of the entries that were not clipped.
        outside: Share of the values of a sample outside of RANGE; of priors of pictures from 0 to 1.
        lags: Autocorrelation of the residual at LAGS, (B, S, 6). pairs: Pairs n_l that each is the mean of.
        kernel: Autocorrelation of the operator's own impulse response at LAGS, 0 where it has none, (B, S, 6).
        blind: Misfit at the frequencies that a blur does not let through: noise alone, whatever the sample.
        rim: Logarithm of the largest mean squared step parallel to the rim of a hole over that elsewhere.
        white: Quantile .999 of the measurement.
        sigma: Stated level of the noise, in the units of the measurement.
        repeated: Misfit of the measurement itself as an image, (B, S), of operators such as JPEG, which change nothing
            that they have made.
        spectra: Of the measurements, where a blur is stated; they say which one, see `blur`.
    """

    entries: Tensor
    misfit: Tensor
    outside: Tensor
    lags: Tensor
    pairs: Tensor
    kernel: Tensor
    blind: Tensor
    rim: Tensor
    white: Tensor
    sigma: Tensor
    repeated: Tensor
    spectra: Spectra | None = None

    def shaped(self, images: int, samples: int) -> Evidence:
        """The same with the leading axes (images, samples) in place of their product.

        Args:
            images: B.
            samples: S.

        Returns:
            The evidence.
        """
        return self._each(lambda t: t.reshape(images, samples, *t.shape[1:]))

    def of_copies(self, copies: int) -> Evidence:
        """Of one gray measurement that stands in so many channels, each stated `copies^1/2` times as noisy."""
        noise = {name: copies * getattr(self, name) for name in ("misfit", "blind", "repeated")}
        return replace(self, entries=self.entries / copies, sigma=self.sigma / copies**0.5, **noise)

    def record(self) -> dict[str, Any]:
        """Lists, as JSON takes them; NaN becomes None."""
        spectra = None if self.spectra is None else self.spectra.record()
        return {name: _listed(getattr(self, name).tolist()) for name in NUMBERS} | {"spectra": spectra}

    def _each(self, change: Any) -> Evidence:
        return replace(self, **{name: change(getattr(self, name)) for name in NUMBERS})


NUMBERS = tuple(f.name for f in fields(Evidence) if f.name != "spectra")
"""The evidence that each sample has of its own."""


def joined_evidence(parts: Sequence[Evidence | None]) -> Evidence | None:
    """The evidence of samples drawn in `parts`, one after another; None where one of them has none."""
    if any(part is None for part in parts):
        return None
    return Evidence(**{n: torch.cat([getattr(p, n) for p in parts], 1) for n in NUMBERS}, spectra=parts[0].spectra)


def from_record(record: dict[str, Any]) -> Evidence:
    """What `Evidence.record` wrote."""
    spectra = None if record["spectra"] is None else Spectra.from_lists(record["spectra"])
    return Evidence(**{name: torch.tensor(_numbers(record[name])) for name in NUMBERS}, spectra=spectra)


@torch.no_grad()
def of_run(likelihood: Likelihood, z: Tensor, x: Tensor, affine: tuple[float, float] | None) -> Evidence:
    """The evidence of the states that a run ended with.

    Args:
        likelihood: Of N = B * S samples.
        z: The states, (N, *z_shape).
        x: The samples that they are, before clipping, (N, C, *spatial).
        affine: Of the prior, `(.5, .5)` where its pictures go from 0 to 1.

    Returns:
        Numbers with the leading axes (B, S).
    """
    r = likelihood.residual(z)
    u = likelihood.weights(r).sqrt() * r
    impulses = responses_to_impulse(likelihood) if affine == PICTURES else None
    a, b = affine or (1.0, 0.0)
    y, n = likelihood.y, likelihood.n_samples
    variance = a**2 * likelihood.variance(r)
    explained = y.repeat_interleave(n, 0) - a * r
    inside = None
    if affine == PICTURES:
        inside = unclipped(y.repeat_interleave(n, 0), explained, variance.sqrt())
    found = measure_samples(u, y, likelihood.seen, x, explained, inside, impulses)
    found = replace(found, sigma=variance.expand_as(r).flatten(1).mean(1).sqrt())
    if impulses is not None:
        found = replace(found, spectra=spectra_of(y, impulses, found.sigma[::n].square()))
    if affine == PICTURES and not likelihood.linear and tuple(likelihood.y.shape[1:]) == likelihood.image_shape:
        itself = ((y - b) / a).repeat_interleave(n, 0)
        found = replace(found, repeated=likelihood.chi2(itself))
    return found.shaped(len(y), n)


def unclipped(y: Tensor, explained: Tensor, sigma: Tensor) -> Tensor:
    """Entries whose noise cannot have been cut off at 0 or at 1, where a measurement was stored between them.

    Args:
        y: The measurement, (N, ...).
        explained: What samples explain of it: a choice by `y` would choose the noise too.
        sigma: Standard deviation of the noise, broadcasts to `y`.

    Returns:
        Bool, as `y`; all entries where nothing was cut off, or hardly any is left.
    """
    room = AWAY * sigma
    inside = (explained >= room) & (explained <= 1 - room)
    stored = (y.flatten(1).amin(1) >= 0) & (y.flatten(1).amax(1) <= 1)
    enough = inside.flatten(1).float().mean(1) >= LEAST
    return inside | ~(stored & enough).reshape(-1, *[1] * (y.ndim - 1))


def responses_to_impulse(likelihood: Likelihood) -> Tensor | None:
    """What a stationary blur makes of one bright pixel.

    Args:
        likelihood: Of B measurements.

    Returns:
        (B, h, w), as large as a measurement, which repeats at its edges; None of what is no such blur.
    """
    (height, width), size = likelihood.image_shape[-2:], likelihood.y.shape[2:]
    if not likelihood.linear or len(size) != 2 or not bool(likelihood.seen.all()):
        return None
    if min(height, width) < 3 or size[0] > height or size[1] > width or 2 * size[0] <= height or 2 * size[1] <= width:
        return None
    seen = []
    for shift in (0, 1):
        impulse = likelihood.y.new_zeros(likelihood.rows, *likelihood.image_shape)
        impulse[..., height // 2 + shift, width // 2 + shift] = 1
        seen.append(likelihood.A(impulse)[:: likelihood.n_samples, 0].roll((-shift, -shift), (-2, -1)))
    return seen[0] if torch.allclose(*seen, atol=1e-4) else None


def measure_samples(
    u: Tensor,
    y: Tensor,
    seen: Tensor,
    x: Tensor,
    explained: Tensor,
    inside: Tensor | None,
    impulses: Tensor | None = None,
) -> Evidence:
    """The evidence of N = B * S samples, one at a time: a large picture needs the memory of one.

    Args:
        u: Residual in units of the noise, (N, *measurement).
        y: The measurement, (B, *measurement).
        seen: Entries of it that see anything, bool, as `y`.
        x: Samples before clipping, (N, C, *spatial).
        explained: What they explain of the measurement, as `u`.
        inside: Entries that were not clipped, bool, as `u`; None of what are no pictures from 0 to 1.
        impulses: See `responses_to_impulse`, (B, h, w).

    Returns:
        Numbers with the leading axis (N,).
    """
    rows, n = [], len(u) // len(y)
    for i in range(len(u)):
        row, image = slice(i, i + 1), slice(i // n, i // n + 1)
        kept = None if inside is None else inside[row]
        power = None if impulses is None else torch.fft.fft2(impulses[i // n]).abs().square()
        rows.append(_measure(u[row], y[image], seen[image], x[row], explained[row], kept, power))
    return Evidence(**{name: torch.cat([getattr(row, name) for row in rows]) for name in NUMBERS})


def _measure(
    u: Tensor,
    y: Tensor,
    seen: Tensor,
    x: Tensor,
    explained: Tensor,
    inside: Tensor | None,
    power: Tensor | None,
) -> Evidence:
    """The evidence of one sample, in the shapes of `measure_samples`."""
    nan, none = u.new_full((1,), torch.nan), u.new_full((1, len(LAGS)), torch.nan)
    planar = u.ndim == 4 and min(u.shape[-2:]) > 2
    entries = y[seen]
    some = entries[:: max(1, math.ceil(entries.numel() / MOST))]
    pictures = inside is not None
    kept = seen & inside if pictures else seen
    lags, pairs = autocorrelation(u, kept, y) if planar else (none, none)
    blur = power is not None
    return Evidence(
        entries=seen.sum().clamp_min(1).to(u)[None],
        misfit=u[kept].square().mean()[None],
        outside=((x < RANGE[0]) | (x > RANGE[1])).float().mean()[None] if pictures else nan,
        lags=lags,
        pairs=pairs,
        kernel=_of_kernel(power)[None] if blur else torch.zeros_like(none),
        blind=blind(u, power) if blur else nan,
        rim=rim(y, seen) if planar and pictures else nan,
        white=torch.quantile(some, 0.999)[None] if some.numel() else nan,
        sigma=nan,
        repeated=nan,
    )


def autocorrelation(u: Tensor, seen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The autocorrelation of residuals at LAGS, over pairs of entries that see anything, in each channel.

    Args:
        u: Residual, (N, C, H, W).
        seen: Entries that count, bool, as `u`.
        y: The measurement, as `u`: where its channels are one and the same, a gray picture, so is their noise, and it
            counts once.

    Returns:
        The autocorrelation and the number of pairs, (N, 6) each.
    """
    if u.shape[1] > 1 and torch.equal(y, y[:, :1].expand_as(y)):
        u, seen = u.mean(1, keepdim=True), seen.all(1, keepdim=True)
    m = seen.float()
    u = u * m
    power = u.square().flatten(1).sum(1) / m.flatten(1).sum(1).clamp_min(1)
    found, pairs = [], []
    for lag in LAGS:
        (a, b), (ma, mb) = _pairs(u, *lag), _pairs(m, *lag)
        pairs.append((ma * mb).flatten(1).sum(1))
        found.append((a * b).flatten(1).sum(1) / pairs[-1].clamp_min(1) / power.clamp_min(1e-30))
    return torch.stack(found, 1), torch.stack(pairs, 1)


def _pairs(t: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """The entries of `t` (..., H, W) that have a neighbor so far away, and these neighbors."""
    height, width = t.shape[-2:]
    first = t[..., : height - down, max(0, -right) : width - max(0, right)]
    return first, t[..., down:, max(0, right) : width - max(0, -right)]


def _of_kernel(power: Tensor) -> Tensor:
    """The autocorrelation of an impulse response of this `power` at LAGS, (6,)."""
    full = torch.fft.ifft2(power).real
    return torch.stack([full[down, right] for down, right in LAGS]) / full[0, 0]


def _window(height: int, width: int, like: Tensor) -> Tensor:
    """A window that takes the edges out of a picture, (height, width)."""
    return torch.outer(*(torch.hann_window(n, periodic=False) for n in (height, width))).to(like)


def blind(u: Tensor, power: Tensor) -> Tensor:
    """The misfit at the frequencies that a blur does not let through, (N,): its mean is 1 where the noise is right.

    Args:
        u: Residual in units of the noise, (N, C, H, W).
        power: |H|^2 of the blur at the frequencies of the measurement, (H, W).

    Returns:
        The misfit; NaN where fewer than FEWEST frequencies are taken away.
    """
    window, dark = _window(*power.shape, u), power < BLIND
    if int(dark.sum()) < FEWEST:
        return u.new_full((len(u),), torch.nan)
    found = torch.fft.fft2(u * window).abs().square() / window.square().sum()
    return found[..., dark].mean((1, 2))


def rim(y: Tensor, seen: Tensor) -> Tensor:
    """Whether measured pixels step up or down at a fixed distance from a hole, as what a shifted mask leaves there.

    Args:
        y: The measurement, (N, C, H, W).
        seen: Entries of it that see anything, as `y`.

    Returns:
        Logarithm of the largest mean squared step, over the four directions and distances up to NEAR, over that far
        from holes, (N,); NaN where no pixel is missing or none is far from what is missing.
    """
    gray, kept = y.mean(1), seen.all(1)
    far = torch.nn.functional.max_pool2d((~kept).float(), 2 * NEAR + 3, 1, NEAR + 1) == 0
    usual, count = 0.0, 0
    for lag in LAGS[:2]:
        (a, b), (ka, kb) = _pairs(gray, *lag), _pairs(far, *lag)
        usual, count = usual + ((a - b).square() * (ka & kb)).sum((1, 2)), count + (ka & kb).sum((1, 2))
    steps = [torch.full_like(usual, torch.nan)]
    for turned, mask in ((gray, kept), (gray.mT, kept.mT)):
        for side in ((turned, mask), (turned.flip(-1), mask.flip(-1))):
            steps += [_steps(*side, distance) for distance in range(1, NEAR + 1)]
    largest = torch.stack(steps).nan_to_num(-1.0).amax(0)
    usual = usual / count
    valid = (count >= FEWEST) & (largest >= 0) & ~kept.flatten(1).all(1)
    return torch.where(valid, ((largest + 1e-5) / (usual + 1e-5)).log(), torch.nan)


def _steps(gray: Tensor, kept: Tensor, distance: int) -> Tensor:
    """Mean squared step between measured pixels `distance` and `distance + 1` to the right of a hole, (N,)."""
    columns = gray.shape[-1] - distance - 1
    if columns < 1:
        return gray.new_full((len(gray),), torch.nan)
    where = ~kept[..., :columns]
    for offset in range(1, distance + 2):
        where = where & kept[..., offset : offset + columns]
    step = gray[..., distance + 1 : distance + 1 + columns] - gray[..., distance : distance + columns]
    count = where.sum((1, 2))
    mean = (step.square() * where).sum((1, 2)) / count
    return torch.where(count >= FEWEST // 2, mean, torch.nan)


def _listed(values: Any) -> Any:
    return [_listed(v) for v in values] if isinstance(values, list) else None if math.isnan(values) else values


def _numbers(values: Any) -> Any:
    return [_numbers(v) for v in values] if isinstance(values, list) else math.nan if values is None else values
