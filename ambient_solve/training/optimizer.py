"""The optimizer of a run: AdamW on the weights that learn, its moments in 32 bits or in 8."""

from __future__ import annotations

import torch
from torch import nn

from ambient_solve.errors import AmbientSolveError

BETAS = (0.9, 0.99)
"""Memories of the two moments."""


def made_optimizer(model: nn.Module, lr: float, eight_bit: bool, device: torch.device) -> torch.optim.Optimizer:
    """AdamW without weight decay on the parameters that ask for a gradient.

    Args:
        model: What is trained.
        lr: Learning rate.
        eight_bit: Whether the moments are stored in 8 bits, block by block (Dettmers et al., 2022, arXiv 2110.02861).
        device: Where the parameters are.

    Returns:
        The optimizer.

    Raises:
        AmbientSolveError: 8 bits were asked for, and bitsandbytes is not installed.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not eight_bit:
        fused = device.type in ("cpu", "cuda")
        return torch.optim.AdamW(parameters, lr=lr, betas=BETAS, weight_decay=0.0, fused=fused)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise AmbientSolveError(
            "tuning: eight_bit needs bitsandbytes: pip install bitsandbytes, or leave eight_bit out."
        ) from None
    return AdamW8bit(parameters, lr=lr, betas=BETAS, weight_decay=0.0)
