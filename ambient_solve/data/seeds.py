"""Random numbers of one picture of one source: what is drawn for it depends on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def source_key(source: str) -> tuple[int, ...]:
    """What stands for `source` in a seed; nothing where none was named."""
    return (int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big"),) if source else ()


def generator(*key: int) -> np.random.Generator:
    """The random numbers that belong to a key, the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
