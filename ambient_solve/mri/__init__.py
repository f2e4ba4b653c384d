"""Undersampled scans: files, the problem of one slice, its reconstruction and its report."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "reconstruction": ["Reconstruction", "load_mri_prior", "reconstruct"],
        "scan": ["Scan", "read_scan"],
    },
)
