"""Operators that are known but for a few numbers, and the evidence by which these are found."""

from __future__ import annotations

from ambient_solve.blind.family import Family, Unknown
from ambient_solve.blind.kernel import KernelEstimate, estimate_kernel
from ambient_solve.blind.law import SpectralLaw
from ambient_solve.blind.photographs import PHOTOGRAPHS
from ambient_solve.blind.posterior import BlurEstimate, estimate_blur, known

__all__ = [
    "PHOTOGRAPHS",
    "BlurEstimate",
    "Family",
    "KernelEstimate",
    "SpectralLaw",
    "Unknown",
    "estimate_blur",
    "estimate_kernel",
    "known",
]
