"""Frechet distances in a network that has a name and that everybody has: the embedded prior of photographs.

A picture is described by the means over its pixels of what the middle of that U-Net answers at noise level .1, turned
and cut to a few numbers by fixed random axes, as few pictures have no covariance of many. These are no Inception
features, and the distance is no FID.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ambient_solve.data.seeds import generator
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.features import NETWORK, middle_features

FEATURES = f"{NETWORK}-middle-16"
"""What records call the features."""
AXES = 16
"""Numbers that picture_features a picture."""


def picture_features(pictures: Tensor, device: str = "cpu") -> np.ndarray:
    """Describe pictures.

    Args:
        pictures: (N, 1 or 3, H, W) in [-1, 1].
        device: Where the network computes.

    Returns:
        (N, AXES) float64.
    """
    features = middle_features(pictures, device).double().numpy()
    axes, _ = np.linalg.qr(generator(12).standard_normal((features.shape[1], AXES)))
    return features @ axes


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of the Gaussians that have the means and covariances of two sets.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))` (Dowson and Landau, 1982).

    Args:
        a: (n, d), n at least 2.
        b: (m, d), m at least 2.

    Returns:
        The squared distance, >= 0.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise AmbientSolveError(f"Two sets of at least 2 descriptions were expected, got {a.shape} and {b.shape}.")
    first, second = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ second @ root).clip(0)
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(apart + np.trace(first) + np.trace(second) - 2 * np.sqrt(both).sum(), 0.0))
