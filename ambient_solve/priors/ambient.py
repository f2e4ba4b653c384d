r"""A mask-conditioned network as a prior for every solver (Ambient Diffusion; Daras et al., 2023,
arXiv 2305.19256).

A denoiser `h` learned from incomplete pictures is shown `M z_sigma` and the mask `M`; its minimiser is

    h(M z_sigma, M; sigma) = E[z0 | M z_sigma, M]

`AmbientPrior` is `D(z) = h(M z, M)`, with a mask for each row. In k-space the visible part is `A^H M A z`, `A` the
Fourier transforms of the coil images (Aali et al., 2025, arXiv 2403.08728). Gradients flow through the masking.

Warning: `D` is not `E[z0 | z]`, it ignores what the mask hides of `z`. With one fixed mask for each sample the visible
part follows its exact flow and the hidden part ends at its conditional mean, so that unconditional sampling draws

    E[z0 | M z0] with z0 ~ p, not z0 ~ p;           tr Cov = tr C - E tr Cov[z0 | M z0]

where `p` is Gaussian of covariance `C`: less diverse than the data, the more so the less is visible. With a fresh mask
at each call the samples shrink towards the mean of the data. Under a solver, too, what the mask hides ends at its
conditional mean, also where it was measured: a mask that hides measured entries loses them, `with_mask` of the
operator's own does not. The mean of many samples is then right, the variance of what was not measured is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.transforms import from_kspace, to_kspace

POLICIES = ("fixed", "per_call", "measurement")


@final
class AmbientPrior(WrappedPrior):
    """A mask-conditioned denoiser with a policy of what it is shown.

    Args:
        inner: The network. Its `denoise(z, sigma, cond)` is shown the visible part of z and the mask `cond`, 1 or 0:
            (B, mask_channels, *spatial), or (B, d) for vectors.
        keep_probability: Chance in (0, 1] that training showed it an entry: that neither the damage of the data nor the
            further damage of training hid it. Masks are drawn by it, each entry by itself.
        mask_channels: Channels of a mask: 1 is shared by all channels, otherwise one for each.
        policy: What it is shown. "fixed" draws one mask for each row of a run. "per_call" draws new ones at each call,
            for comparison: the samples differ far less. "measurement" takes `mask`.
        mask: 1 where visible: (H, W), (1, H, W) or (C, H, W), for vectors (d,); a leading axis B gives each of B
            measurements its own. Best where it hides about as much as the network was used to.
        maps: Complex coil maps ([B,] coils, H, W): `mask` is one of k-space.

    Raises:
        AmbientSolveError: the policy, the mask and the maps do not go together, or do not fit the states.

    A run starts at `begin`, which draws the masks of its rows from the streams of these rows: the mask of sample i
    depends on (seed, i) alone. They are kept until the next run starts, so one prior serves one run at a time;
    `copy.copy(prior)`, which shares the network, serves another. A mask given as `cond` takes the place of the
    policy's, without a run.
    """

    mask: Tensor | None
    maps: Tensor | None

    def __init__(
        self,
        inner: Prior,
        keep_probability: float | None = None,
        *,
        mask_channels: int = 1,
        policy: str = "fixed",
        mask: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> None:
        super().__init__(inner)
        self.keep_probability, self.mask_channels, self.policy = keep_probability, mask_channels, policy
        # `sigma^2 dD/dz` is no covariance: its columns of hidden entries are 0.
        self.sigma_jacobian = 0.0
        self._spatial = max(len(inner.shape) - 1, 1)
        self._check(mask is not None, maps is not None)
        self.register_buffer("mask", None if mask is None else self._full_mask(mask), persistent=False)
        self.register_buffer("maps", None if maps is None else self._full_maps(maps), persistent=False)
        self._masks: Tensor | None = None
        self._streams: Streams | None = None

    def _check(self, mask: bool, maps: bool) -> None:
        if self.policy not in POLICIES:
            raise AmbientSolveError(f"policy={self.policy!r} is not a choice. {suggestion(str(self.policy), POLICIES)}")
        if mask != (self.policy == "measurement") or maps > mask:
            raise AmbientSolveError(
                f"policy={self.policy!r} was given with{'' if mask else 'out'} a mask; 'measurement' takes one (and "
                "maps, where it is of k-space), 'fixed' and 'per_call' draw theirs."
            )
        given = isinstance(self.keep_probability, (int, float)) and not isinstance(self.keep_probability, bool)
        share = self.keep_probability if given and self.keep_probability is not None else 0.0
        if not 0 < share <= 1 and not (mask and self.keep_probability is None):
            raise AmbientSolveError(
                f"keep_probability={self.keep_probability!r} was given; the share of entries that the network was "
                "used to seeing was expected, above 0 and at most 1, or a mask."
            )
        if self.mask_channels not in (1, *self.shape[: -self._spatial]):
            raise AmbientSolveError(
                f"mask_channels={self.mask_channels!r} was given for states of shape {tuple(self.shape)}; 1, shared "
                "by all channels, or one for each channel was expected."
            )

    def with_mask(self, mask: Tensor, maps: Tensor | None = None) -> AmbientPrior:
        """The same network under the policy "measurement": it sees what was measured.

        Args:
            mask: What was measured, 1 = seen, as in the constructor.
            maps: Coil maps (coils, H, W) complex, where the mask is one of k-space; None for pixels.

        Returns:
            A prior with the same network.
        """
        channels = self.mask_channels
        return AmbientPrior(
            self.inner, self.keep_probability, mask_channels=channels, policy="measurement", mask=mask, maps=maps
        )

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """`E[z0 | M z_sigma, M]`, shape of `z` (B, *shape); `cond` (1 or B, mask_channels, *spatial) is `M`.

        Args:
            z: Noisy state, (B, *shape).
            sigma: Noise level in `z` units: a float, () or (B,).
            cond: The mask `M`, (1 or B, mask_channels, *spatial); that of the policy by default.

        Returns:
            The estimate of the clean state, (B, *shape).
        """
        mask = _rows(self._mask(z) if cond is None else cond, len(z))
        return self.inner.denoise(self.visible(z, mask), sigma, mask.expand(len(z), *mask.shape[1:]))

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`; through the masking."""
        return Prior.denoise_vjp(self, z, sigma, cond, once=once)

    def visible(self, z: Tensor, mask: Tensor) -> Tensor:
        """What a mask lets through of states: `M z`, or `A^H M A z` in k-space.

        Args:
            z: States (B, *shape).
            mask: (B or 1, mask channels, H, W), 1 = seen.

        Returns:
            The shape of `z`.
        """
        if self.maps is None:
            return z * mask
        maps = _rows(self.maps, len(z))
        return from_kspace(mask * to_kspace(z, maps), maps)

    def shown(self, z: Tensor, cond: Any = None) -> Tensor:
        """See `Prior.shown`."""
        return self.visible(z, _rows(self._mask(z) if cond is None else cond, len(z)))

    def restore_once(self, z_visible: Tensor, mask: Tensor, sigma: Level | None = None) -> Tensor:
        """`E[z0 | what was seen]` in one network call, (B, *shape): no sample, but the best guess in squared error.

        Args:
            z_visible: The visible part (B, *shape); hidden pixels may hold anything finite. In k-space `A^H y`.
            mask: What was seen, as in the constructor.
            sigma: Noise of the visible part in z units; `sigma_min`, which is nearly none, by default.

        Returns:
            (B, *shape).
        """
        mask = _rows(self._full_mask(mask), len(z_visible))
        shown = z_visible * mask if self.maps is None else z_visible
        level = self.sigma_min if sigma is None else sigma
        return self.inner.denoise(shown, level, mask.expand(len(shown), *mask.shape[1:]))

    def disagreement(self, z: Tensor, sigma: Level, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """How far predictions under several masks differ, and the gradient: the step of reconstruction guidance.

        What two masks show of one picture should lead to one prediction (arXiv 2305.19256). Each mask costs a forward
        pass beside that of `D`, all together one backward pass.

        Args:
            z: Noisy state, (B, *shape).
            sigma: Noise level in `z` units: a float, () or (B,).
            masks: Masks `M_k` to compare with that of the run.

        Returns:
            `D(z)`, and the gradient by `z` of `mean_k |D(z) - h(M_k z, M_k)|^2 / 2`, with the norm of each sample; both
            (B, *shape).
        """
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            z0 = self.denoise(leaf, sigma)
            total = torch.stack([(z0 - self.denoise(leaf, sigma, mask)).square().sum() for mask in masks]).sum()
            return z0.detach(), torch.autograd.grad(total / (2 * len(masks)), leaf)[0]

    def draw_masks(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """Draw masks as training did.

        Args:
            shape: Of the states, (B, *z_shape).
            streams: One stream per row; row i of the masks comes from stream i.

        Returns:
            Masks (B, mask channels, H, W), or (B, *z_shape) for vectors: 1 with chance `keep_probability`, else 0.
        """
        shape = (shape[0], *([self.mask_channels] if len(shape) > 2 else []), *shape[-self._spatial :])
        share = 1.0 if self.keep_probability is None else self.keep_probability
        return (streams.uniform(torch.empty(shape, device=self.device)) < share).float()

    def begin(self, shape: tuple[int, ...], streams: Streams) -> None:
        """See `Prior.begin`. Draws the masks of the rows."""
        for given in (self.mask, self.maps):
            if given is not None and given.shape[-self._spatial :] != tuple(shape[-self._spatial :]):
                raise AmbientSolveError(
                    f"The prior's mask or maps, {tuple(given.shape)}, do not fit states of shape {tuple(shape[1:])}; "
                    "give with_mask those of the measurement."
                )
        self.inner.begin(shape, streams)
        self._streams = streams
        self._masks = self.draw_masks(shape, streams) if self.policy == "fixed" else None

    def _mask(self, z: Tensor) -> Tensor:
        if self.mask is not None:
            return self.mask
        if self._streams is None or (self._masks is not None and len(self._masks) != len(z)):
            raise AmbientSolveError(
                f"No mask was drawn for {len(z)} rows: start a run by begin(shape, streams), which draws them, or give "
                "one: denoise(z, sigma, mask)."
            )
        return self.draw_masks(tuple(z.shape), self._streams) if self._masks is None else self._masks

    def _full_mask(self, mask: Tensor) -> Tensor:
        """`mask` as float32 (1 or B, mask_channels, *spatial)."""
        given, axes = torch.as_tensor(mask).detach().to(self.inner.device, torch.float32), 1 + len(self.shape)
        mask = given.reshape((1,) * (axes - given.ndim) + given.shape) if given.ndim >= self._spatial else given
        sizes = zip(mask.shape[-self._spatial :], self.shape[-self._spatial :], strict=False)
        fits = mask.ndim == axes and all(want in (-1, have) for have, want in sizes)
        if fits and axes > 2:
            # A mask that all channels share has one channel; one of one channel is shared by all.
            shared = mask.shape[1] in (1, self.shape[0]) and bool((mask == mask[:, :1]).all())
            fits = mask.shape[1] == self.mask_channels or shared
            mask = mask[:, :1].expand(-1, self.mask_channels, *mask.shape[2:]) if shared else mask
        if not fits:
            size = tuple("any" if n == -1 else n for n in self.shape[-self._spatial :])
            raise AmbientSolveError(
                f"The mask has shape {tuple(given.shape)}; {self.mask_channels} channel(s) of size {size}, with or "
                "without a batch axis before, are what the network is conditioned on."
            )
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise AmbientSolveError(
                "The mask has values besides 0 (hidden) and 1 (visible); mask > 0.5 makes a binary one."
            )
        return mask

    def _full_maps(self, maps: Tensor) -> Tensor:
        """`maps` as complex64 (1 or B, coils, H, W)."""
        full = torch.as_tensor(maps).detach().to(self.inner.device)
        full = full[None] if full.ndim == 3 else full
        if full.ndim != 4 or not full.is_complex() or len(self.shape) != 3 or self.shape[0] != 2:
            raise AmbientSolveError(
                f"Coil maps are complex, ([B,] coils, H, W), for states (2, H, W), real and imaginary part; got "
                f"{full.dtype} {tuple(full.shape)} for states {tuple(self.shape)}."
            )
        return full.to(torch.complex64)


@final
class MaskConditionedGaussian(Prior):
    """The exact mask-conditioned denoiser of `z0 ~ N(m, C)`: what a network for `AmbientPrior` learns at best.

    E[z0 | M z_sigma, M] = m + C M (M (C + sigma^2 I) M)^+ (M z_sigma - M m)
    """

    sigma_jacobian = math.inf
    covariance: Tensor

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        self.prior, self.shape = prior, prior.shape
        self.sigma_min, self.sigma_max, self.sigma_data = prior.sigma_min, prior.sigma_max, prior.sigma_data
        self.register_buffer("covariance", prior.covariance)

    @property
    def affine(self) -> tuple[float, float]:
        """That of the Gaussian."""
        return self.prior.affine

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: exact, in float64; `cond` is the mask, 1 = visible, and `z` is 0 where it is 0."""
        like = self.covariance
        mask = torch.ones_like(z) if cond is None else cond
        m = mask.to(like).expand(len(mask), *self.shape).flatten(1)
        s2 = torch.as_tensor(sigma, dtype=like.dtype, device=like.device).reshape(-1, 1) ** 2
        # Hidden entries get a 1 on the diagonal: the pseudo-inverse of the visible block, since their right side is 0.
        system = m[:, :, None] * like * m[:, None, :] + torch.diag_embed(m * s2 + 1 - m)
        mean = self.prior.mean.flatten()
        seen = m * (z.flatten(1).to(like) - mean)
        weights = m * torch.cholesky_solve(seen[..., None], torch.linalg.cholesky(system))[..., 0]
        z0 = mean + weights @ like
        return z0.reshape(z.shape).to(torch.promote_types(z.dtype, torch.float32))


def _rows(tensor: Tensor, rows: int) -> Tensor:
    """One entry for each of `rows` = B * S rows, row `b * S + s` that of measurement b; a single entry serves all."""
    if len(tensor) in (1, rows):
        return tensor
    if rows % len(tensor):
        raise AmbientSolveError(
            f"{len(tensor)} masks or maps were given for {rows} states; one for all, or one for each measurement was "
            "expected."
        )
    return tensor.repeat_interleave(rows // len(tensor), 0)
