r"""Cartesian MRI with any number of coils, fused (SENSE; Pruessmann et al., 1999, Magn. Reson. Med. 42, 952).

y_c = m F S_c x,      A^H A x = sum_c S_c^* F^H m^2 F S_c x

`F` is the orthonormal Fourier transform with the lowest frequency in the middle, as everywhere in deepinv. A shift of
the picture is a phase in k-space and the other way round, so that no shift has to run: with `c = N // 2`

    F_centred = phase F modulation,      modulation(n) = e^{2 pi i c n / N},      phase(k) = e^{2 pi i c (k - c) / N}

`modulation` is part of the stored maps, `phase` (for even sides +-1) of the stored mask, and both cancel in `A^H A`.
Where the mask samples whole lines, the transform along them cancels there as well: what is left is one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

CHUNK = 2**15
"""Complex numbers that one step works on, on a CPU: they stay in its cache, which is most of the speed."""


class MultiCoil(LinearPhysics):
    """The values of deepinv's `MultiCoilMRI`; its normal operator and proximal points take a fraction of the time.

    Images are (B, 2, H, W), real and imaginary part, measurements (B, 2, coils, H, W) as in deepinv. `B` may be any
    multiple of the number of maps or masks: image-major, row `b * S + s` is of slice b.

    Args:
        maps: Complex coil maps, ([1 or B,] coils, H, W); all ones for a single coil.
        mask: What is sampled, (H, W) or (1 or B, 1, H, W); weights other than 0 and 1 are taken as they are.
        sigma: Noise in the real and in the imaginary part of each sampled entry.
    """

    def __init__(self, maps: Tensor, mask: Tensor, sigma: float = 0.0) -> None:
        super().__init__(noise_model=GaussianNoise(checked_sigma(sigma)))
        self._set(maps, mask)

    def _set(self, maps: Tensor, mask: Tensor) -> None:
        maps, mask = full_maps(maps), _full_mask(mask)
        size = tuple(maps.shape[-2:])
        if tuple(mask.shape[-2:]) != size or len({1, len(maps), len(mask)}) > 2:
            raise AmbientSolveError(
                f"The mask {tuple(mask.shape)} and the coil maps {tuple(maps.shape)} do not belong together; the same "
                "height and width were expected, and one of each for all slices or for each slice."
            )
        mask = mask.to(maps.device)
        self.img_size = (2, *size)
        down, across = (_axis(n) for n in size)
        modulation, phase = (torch.outer(a, b).to(maps) for a, b in zip(down, across, strict=True))
        phase = phase if any(n % 2 for n in size) else phase.real
        power = mask[:, 0].square()
        columns, rows = (bool((power == line).all()) for line in (power[:, :1], power[:, :, :1]))
        self.lines = "columns" if columns else "rows" if rows else ""
        power = power[:, :1] if columns else power.mT[:, :1].contiguous() if rows else power
        modulated, weight = maps * modulation, (mask * phase)[:, 0]
        buffers = {
            "coil_maps": maps,
            "mask": mask,
            "_maps": modulated,
            "_weight": weight if phase.is_complex() else _pairs(weight, 1.0),
            "_conjugate": weight if phase.is_complex() else _pairs(weight, -1.0),
            # A^H A of rows runs on the transposed picture: a transform along the last axis is several times faster.
            "_encoded": modulated.mT.contiguous() if self.lines == "rows" else modulated,
            "_power": _pairs(power, -1.0) / (power.shape[-1] if self.lines else power[0].numel()),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.detach(), persistent=name in ("coil_maps", "mask"))
        seen = maps.abs().square().sum(1, keepdim=True) > 0
        lit = (seen.mT if self.lines == "rows" else seen).any(-1).flatten(0, 1).any(0).nonzero().flatten()
        self._lit = int(lit[0]), int(lit[-1]) + 1
        share = seen.flatten(1).double().mean(1)[:, None, None]
        circulant = _circulant(self._encoded, power) / share
        self.register_buffer("_seen", seen.to(mask), persistent=False)
        self.register_buffer("_circulant", circulant.to(mask), persistent=False)

    def update_parameters(self, mask: Tensor | None = None, coil_maps: Tensor | None = None, **_: object) -> None:
        """Replace the mask or the coil maps, as deepinv's `physics.update` does.

        Args:
            mask: New sampling mask, of a shape that the constructor takes; None keeps the present one.
            coil_maps: New maps, (1 or B, coils, H, W) complex; None keeps the present ones.
        """
        if mask is not None or coil_maps is not None:
            given = self.mask if mask is None else mask
            self._set(self.coil_maps if coil_maps is None else coil_maps, given[:, :1] if given.ndim == 4 else given)

    def A(self, x: Tensor, mask: Tensor | None = None, coil_maps: Tensor | None = None, **_: object) -> Tensor:
        """Measure a picture; a mask or maps given here are kept, as in deepinv.

        Args:
            x: Real and imaginary part, (B, 2, H, W).
            mask: See `update_parameters`.
            coil_maps: See `update_parameters`.

        Returns:
            Masked k-space of every coil, (B, 2, coils, H, W).
        """
        self.update_parameters(mask, coil_maps)
        return Apply.apply(x, self._forward, self._backward)

    def A_adjoint(self, y: Tensor, mask: Tensor | None = None, coil_maps: Tensor | None = None, **_: object) -> Tensor:
        """The adjoint of `A`.

        Args:
            y: K-space, (B, 2, coils, H, W).
            mask: See `update_parameters`.
            coil_maps: See `update_parameters`.

        Returns:
            Real and imaginary part, (B, 2, H, W).
        """
        self.update_parameters(mask, coil_maps)
        return Apply.apply(y, self._backward, self._forward)

    def A_adjoint_A(self, x: Tensor, **_: object) -> Tensor:
        """`A^H A x`, (B, 2, H, W), coil by coil: the k-space of all coils is never held at once."""
        return Apply.apply(x, self._normal, self._normal)

    def noise(self, x: Tensor, **kwargs: object) -> Tensor:
        """A measurement with noise.

        Args:
            x: The measurement without noise, (B, 2, coils, H, W).
            kwargs: As the noise model of deepinv takes them.

        Returns:
            (B, 2, coils, H, W), 0 where nothing is sampled.
        """
        return of_rows(self.mask, len(x))[:, :, None] * self.noise_model(x, **kwargs)

    def precondition(self, r: Tensor, ratio: float | Tensor) -> Tensor:
        """Roughly `(I + ratio A^H A)^-1 r`, to precondition its solve, by `rough_inverse`.

        The eigenvalues of the circulant are the sampling averaged over the power spectrum of the maps.

        Args:
            r: Images (B, 2, H, W).
            ratio: Weight of the data, 0 or more, () or (B, 1, 1, 1).

        Returns:
            (B, 2, H, W).
        """
        seen, eigenvalues = (of_rows(t, len(r)) for t in (self._seen, self._circulant))
        r, seen = (t.mT if self.lines == "rows" else t for t in (r, seen))
        out = rough_inverse(r, ratio, eigenvalues, seen, (-1,) if self.lines else (-2, -1))
        return out.mT if self.lines == "rows" else out

    def _forward(self, x: Tensor) -> Tensor:
        x, (coils, height, width) = to_complex(x), self._maps.shape[1:]
        dtype = torch.promote_types(x.dtype, self._maps.dtype)
        y = torch.empty(len(x), coils, height, width, dtype=dtype, device=x.device)
        for rows in spans(x, 0, len(x), coils * height * width):
            maps, weight = (of_rows(t, len(x), rows) for t in (self._maps, self._weight))
            for part in spans(x, 0, coils, height * width):
                k = torch.fft.fft2(maps[:, part] * x[rows, None], norm="ortho")
                torch.mul(_floats(k, weight), weight[:, None], out=_floats(y[rows, part], weight))
        return to_real(y)

    # Below, `A^H` is taken as `conj(S^T F conj(.))`: the sign of imaginary parts comes with the weights of k-space, and
    # the maps need not be conjugated, which would be one more pass through memory.

    def _backward(self, y: Tensor) -> Tensor:
        coils, height, width = self._maps.shape[1:]
        dtype = torch.promote_types(y.dtype, self._maps.dtype)
        out = torch.zeros(len(y), height, width, dtype=dtype, device=y.device)
        for rows in spans(y, 0, len(y), coils * height * width):
            maps, weight = (of_rows(t, len(y), rows) for t in (self._maps, self._conjugate))
            for part in spans(y, 0, coils, height * width):
                k = _conjugate_weighted(y[rows, :, part], weight[:, None])
                _add_coils(out[rows], torch.fft.fft2(k, norm="ortho"), maps[:, part])
        return to_real(out.conj_physical_())

    def _normal(self, x: Tensor) -> Tensor:
        x = to_complex(x.mT if self.lines == "rows" else x)
        coils, height, width = self._encoded.shape[1:]
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        transform = torch.fft.fft if self.lines else torch.fft.fft2
        for rows in spans(x, 0, len(x), coils * height * width):
            maps, power = (of_rows(t, len(x), rows) for t in (self._encoded, self._power))
            if self.lines:
                # Each line across the sampled ones is a picture of its own, with all its coils. Those that no coil
                # sees, above and below a head, are 0.
                parts = [(slice(None), part) for part in spans(x, *self._lit, coils * width)]
            else:
                parts = [(part, slice(None)) for part in spans(x, 0, coils, height * width)]
            for part, lines in parts:
                s = maps[:, part, lines]
                k = transform(s * x[rows, None, lines])
                _floats(k, power).mul_(power[:, None])
                _add_coils(out[rows, lines], transform(k), s)
        out = out.conj_physical_()
        # Contiguous, so that a solve need not walk two layouts at once.
        return to_real(out.mT if self.lines == "rows" else out).contiguous()


def _floats(k: Tensor, weight: Tensor) -> Tensor:
    """Complex (..., W) as (..., 2 W) real numbers, in the same memory, where `weight` is real."""
    return k if weight.is_complex() else torch.view_as_real(k).flatten(-2)


def _pairs(weight: Tensor, sign: float) -> Tensor:
    """A weight (..., W) for each of the `_floats` of k-space, `sign` times itself for imaginary parts."""
    return torch.stack([weight, sign * weight], -1).flatten(-2).contiguous()


def _conjugate_weighted(y: Tensor, weight: Tensor) -> Tensor:
    """`conj(y) weight` for y (B, 2, coils, H, W) of any layout, complex (B, coils, H, W); see `_conjugate`."""
    if weight.is_complex():
        return to_complex(y).conj() * weight
    parts = y.movedim(1, -1)
    k = torch.empty(parts.shape, dtype=y.dtype, device=y.device)
    return torch.view_as_complex(torch.mul(parts, weight.unflatten(-1, (-1, 2)), out=k))


def _add_coils(out: Tensor, images: Tensor, maps: Tensor) -> None:
    """`out += sum_c images_c maps_c`, all of it in place."""
    if images.shape[1] == 1:
        out.addcmul_(images[:, 0], maps[:, 0])
    else:
        out += images.mul_(maps).sum(1)


def rough_inverse(
    r: Tensor, ratio: float | Tensor, eigenvalues: Tensor, seen: Tensor, axes: tuple[int, ...] = (-2, -1)
) -> Tensor:
    """An approximation of `(I + ratio A^H A)^-1 r`, symmetric and positive, at the cost of one coil.

        s (I + ratio C)^(-1/2) s r + (1 - s) r,      s = 1 where any coil sees something (`seen`)

    `C`, the circulant matrix nearest to `A^H A`, has the diagonal of `F A^H A F^H` as its `eigenvalues` (T. Chan, 1988,
    SIAM J. Sci. Stat. Comput. 9, 766). Its smallest ones are too small, which may cost more steps than it saves; the
    root errs on neither side.

    Args:
        r: Real and imaginary part, (B, 2, H, W).
        ratio: Weight of `A^H A`, >= 0: a float, or a tensor (B,).
        eigenvalues: Those of `C`, >= 0, of a shape that broadcasts to (B, H, W).
        seen: 1 where any coil sees something, else 0, of a shape that broadcasts to `r`.
        axes: Axes of the Fourier transform of the complex picture.

    Returns:
        (B, 2, H, W).
    """
    ratio = torch.as_tensor(ratio, dtype=r.dtype, device=r.device).reshape(-1, 1, 1)
    k = torch.fft.fftn(to_complex(r * seen), dim=axes).mul_((1 + ratio * eigenvalues).rsqrt())
    return torch.where(seen > 0, to_real(torch.fft.ifftn(k, dim=axes)).contiguous(), r)


class Apply(torch.autograd.Function):
    """A linear map whose derivative is its adjoint: nothing is kept for the backward pass."""

    @staticmethod
    def forward(x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        """See `torch.autograd.Function`: `there(x)`, whose adjoint is `back`."""
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """See `torch.autograd.Function`: keeps the two maps, and no tensor."""
        _, ctx.there, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """See `torch.autograd.Function`: `back` of the gradient."""
        return Apply.apply(gradient, ctx.back, ctx.there), None, None


def spans(like: Tensor, first: int, last: int, size: int) -> list[slice]:
    """Slices that cover a range, each as long as stays in the cache of a CPU; on a GPU one slice covers it all.

    Args:
        like: A tensor on the device that works.
        first: The first index.
        last: The index after the last.
        size: Numbers that each index stands for.

    Returns:
        Slices, in order.
    """
    step = max(1, CHUNK // size) if like.device.type == "cpu" else max(last - first, 1)
    return [slice(i, min(i + step, last)) for i in range(first, last, step)]


def of_rows(t: Tensor, n: int, rows: slice | None = None) -> Tensor:
    """The entries of a mask or of maps that belong to some rows of a batch.

    Args:
        t: One entry for all, or one for each slice, (1 or B, ...).
        n: Rows of the batch, a multiple of B; those of one slice follow each other.
        rows: The rows that are wanted; all by default.

    Returns:
        (1, ...) or an entry for each row.

    Raises:
        AmbientSolveError: `n` is no multiple of B.
    """
    if len(t) == 1:
        return t
    if n % len(t):
        raise AmbientSolveError(
            f"{n} pictures were given to an operator of {len(t)} slices; one of each slice, or the same number of "
            "samples of each, was expected."
        )
    rows, each = rows or slice(0, n), n // len(t)
    if rows.stop - rows.start == 1:
        return t[rows.start // each : rows.start // each + 1]
    return t[torch.arange(rows.start, rows.stop, device=t.device) // each]


def to_complex(x: Tensor) -> Tensor:
    """(B, 2, ...) real to (B, ...) complex."""
    paired = x.movedim(1, -1)
    return torch.view_as_complex(paired) if paired.is_contiguous() else torch.complex(x[:, 0], x[:, 1]).contiguous()


def to_real(x: Tensor) -> Tensor:
    """(B, ...) complex to (B, 2, ...) real, in the same memory."""
    return torch.view_as_real(x.contiguous()).movedim(-1, 1)


def _axis(n: int) -> tuple[Tensor, Tensor]:
    """The modulation and the phase of one axis of `n` pixels, complex128 (see the top of this file)."""
    turns = torch.arange(n, dtype=torch.float64) * (n // 2) / n
    modulation = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
    # In exact arithmetic even sides have +-1: rounded to it, the values are those that a shift gives, bit for bit.
    modulation = torch.complex(modulation.real.round(), torch.zeros_like(turns)) if n % 2 == 0 else modulation
    return modulation, modulation * modulation[n // 2].conj()


def _circulant(maps: Tensor, power: Tensor) -> Tensor:
    """The eigenvalues of the circulant matrix nearest to `A^H A`, (1 or B, 1 or H, W), from maps as `_encoded`.

    c(k) = sum_k' m(k')^2 P(k' - k),      P(k) = sum_c |F S_c (k)|^2 / N
    """
    axes = (-1,) if power.shape[1] == 1 else (-2, -1)
    spectrum = torch.fft.fftn(maps, dim=axes, norm="forward").abs().square().sum(1)
    spectrum = spectrum.mean(1, keepdim=True) if len(axes) == 1 else spectrum
    correlated = torch.fft.fftn(power, dim=axes) * torch.fft.fftn(spectrum, dim=axes).conj()
    return torch.fft.ifftn(correlated, dim=axes).real.clamp_min(0)


def checked_sigma(sigma: float) -> float:
    """A noise level of at least 0."""
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma < math.inf:
        raise AmbientSolveError(f"sigma={sigma!r} was given, a noise level of at least 0 was expected.")
    return float(sigma)


def full_maps(maps: Tensor) -> Tensor:
    """Coil maps as complex64 or complex128 (1 or B, coils, H, W), checked."""
    maps = torch.as_tensor(maps)
    full = maps[None] if maps.ndim == 3 else maps
    if full.ndim != 4 or not full.is_complex() or full.numel() == 0:
        raise AmbientSolveError(
            f"The coil maps are {maps.dtype} {tuple(maps.shape)}; complex (coils, H, W), or (B, coils, H, W) for B "
            "slices, was expected: torch.ones(1, H, W, dtype=torch.complex64) for a single coil."
        )
    broken = (~torch.isfinite(full)).flatten(2).any(2).any(0)
    if bool(broken.any()):
        raise AmbientSolveError(
            f"The map of coil {int(broken.nonzero()[0])} has NaN or infinite entries; leave this coil out of the data."
        )
    if not bool(full.any()):
        raise AmbientSolveError("The coil maps are zero everywhere; estimate them from calibration data that are not.")
    return full.resolve_conj().contiguous()


def _full_mask(mask: Tensor) -> Tensor:
    """A mask as float32 (1 or B, 1, H, W), checked."""
    mask = torch.as_tensor(mask)
    full = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    if full.ndim != 4 or full.shape[1] != 1 or full.is_complex():
        raise AmbientSolveError(
            f"The mask is {mask.dtype} {tuple(mask.shape)}; real (H, W), or (B, 1, H, W) for B slices, was expected."
        )
    full = full.float()
    if not bool(torch.isfinite(full).all()) or not bool(full.flatten(1).any(1).all()):
        raise AmbientSolveError(
            "The mask has NaN or infinite entries, or samples nothing at all; 1 = sampled, 0 = not (see make_mask)."
        )
    return full.contiguous()
