"""How near a picture is to the truth: PSNR, SSIM and, where its package and weights are at hand, LPIPS.

PSNR = 10 log10(peak^2 / mean squared error), in dB. SSIM is scikit-image's: windows of 7x7, the mean over channels.
LPIPS (Zhang et al., 2018, arXiv 1801.03924) is that of AlexNet; smaller is better, of the two others larger.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

SMALLEST = 7
"""Least side for SSIM, in pixels: that of its window."""
SMALLEST_LPIPS = 31
"""Least side for LPIPS, in pixels: the layers of AlexNet leave one pixel of it."""


def psnr(x: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio over all entries.

    Args:
        x: A tensor, taken as it is: nothing is clipped.
        truth: The same shape.
        peak: Largest value that a picture can have.

    Returns:
        dB; infinite where both are equal.

    Raises:
        AmbientSolveError: the shapes differ.
    """
    if x.shape != truth.shape:
        raise AmbientSolveError(f"psnr compares equal shapes, got {tuple(x.shape)} and {tuple(truth.shape)}.")
    return float(10 * torch.log10(peak**2 / (x.float() - truth.float()).square().mean()))


class Metrics:
    """`metrics(x, truth)`: a dictionary of `psnr`, `ssim` and, with `features`, `lpips`.

    Args:
        features: The convolutions of torchvision's AlexNet as safetensors (`features.0.weight`, ...). Nothing is
            downloaded, and nothing unpickled but what the package lpips brings along.

    Raises:
        AmbientSolveError: the package or the file is missing, or the file holds something else.
    """

    def __init__(self, features: Path | None = None) -> None:
        self._lpips = None if features is None else _load_lpips(Path(features))
        self.names = ("psnr", "ssim") if features is None else ("psnr", "ssim", "lpips")
        self.smallest = SMALLEST if features is None else SMALLEST_LPIPS

    def __call__(self, x: Tensor, truth: Tensor) -> dict[str, float]:
        """Compare pictures (1 or 3, H, W), the truth in [0, 1]; `x` is clipped to that range, as a file would be."""
        from skimage.metrics import structural_similarity

        if x.shape != truth.shape or x.ndim != 3 or x.shape[0] not in (1, 3) or min(x.shape[1:]) < self.smallest:
            raise AmbientSolveError(
                f"Two pictures (1 or 3, H, W) with sides of at least {self.smallest} were expected, "
                f"got {tuple(x.shape)} and {tuple(truth.shape)}."
            )
        x, truth = x.detach().float().cpu().clamp(0, 1), truth.detach().float().cpu()
        ssim = structural_similarity(truth.numpy(), x.numpy(), channel_axis=0, data_range=1.0)
        row = {"psnr": psnr(x, truth), "ssim": float(ssim)}
        if self._lpips is not None:
            colour = (p.expand(3, -1, -1)[None] for p in (x, truth))
            with torch.no_grad():
                row["lpips"] = float(self._lpips(*colour, normalize=True))
        return row


def _load_lpips(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        import lpips
    except ImportError:
        raise AmbientSolveError("LPIPS needs its package: pip install 'ambient-solve[metrics]'.") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it still calls torchvision as it was called years ago
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    own = model.net.state_dict()
    try:
        features = load_file(path)
        features = {k: v.float() for k, v in features.items() if k.startswith("features.")}
        ordered = [features[k] for k in sorted(features, key=_layer)]
        model.net.load_state_dict(dict(zip(own, ordered, strict=True)))
    except (OSError, SafetensorError, ValueError, RuntimeError):
        raise AmbientSolveError(
            f"{path} does not hold the convolutions of torchvision's AlexNet: a safetensors file of features.0.weight "
            "and the other nine was expected."
        ) from None
    return model


def _layer(key: str) -> tuple[int, bool]:
    """Order of torchvision's `features.N.weight` and `features.N.bias`."""
    return int(key.split(".")[1]), key.endswith("bias")


def variance_and_error(samples: Tensor, truth: Tensor) -> tuple[float, float]:
    """`V` and `B` of `variance_ratio` for one picture.

    The ratio over many pictures is that of their sums: one picture of little error would dominate a mean of ratios.

    Args:
        samples: (S, *shape), S at least 2.
        truth: (*shape).

    Returns:
        `V`, and `B`, which may come out below 0.
    """
    samples, truth = samples.double(), truth.double()
    V = samples.var(0).mean()
    return float(V), float((samples.mean(0) - truth).square().mean() - V / len(samples))
