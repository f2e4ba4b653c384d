"""Systematic resampling among the samples of an image, for algorithms whose samples are particles."""

from __future__ import annotations

import torch
from torch import Tensor


def resample(log_w: Tensor, u: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    """Systematic resampling among the particles of each image, without a branch on the data.

    Args:
        log_w: Log-weights, (B * S,), row `b * S + s` particle `s` of image `b`; a constant per image does not matter.
        u: One uniform number in [0, 1) per image, (B,).
        always: Resample every image; else those alone whose effective sample size is below half.

    Returns:
        The rows to keep and the log-weights after it, both (B * S,).
    """
    images, count = len(u), len(log_w) // len(u)
    grouped = log_w.reshape(images, count)
    w = grouped.softmax(1)
    poor = torch.ones_like(u, dtype=torch.bool) if always else 1 / w.square().sum(1) < count / 2
    points = (torch.arange(count, device=w.device) + u[:, None]) / count
    drawn = torch.searchsorted(w.cumsum(1).contiguous(), points.contiguous()).clamp_max(count - 1)
    stay = torch.arange(count, device=w.device).expand(images, count)
    keep = torch.where(poor[:, None], drawn, stay) + count * torch.arange(images, device=w.device)[:, None]
    level = torch.where(poor[:, None], torch.zeros_like(grouped), grouped - grouped.logsumexp(1, keepdim=True))
    return keep.flatten(), level.flatten()
