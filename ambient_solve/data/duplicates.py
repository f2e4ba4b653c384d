"""Near-duplicates among pictures: what is learned twice, or both learned from and measured on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

BITS = 64
"""Bits of a perceptual hash."""
NEAR = 4
"""Bits in which the hashes of near duplicates differ at most."""


def duplicate_groups(pictures: Iterable[tuple[str, Tensor]]) -> list[list[str]]:
    """The groups, of two and more, of pictures that are the same or nearly so, by name in the order of `pictures`.

    Nearly so are pictures whose perceptual hashes (64 bits of the lowest cosine coefficients) differ in 4 bits or
    fewer: another size or encoding, not another crop. A chain of near pictures is one group, and pictures without any
    structure are all alike.

    Args:
        pictures: (name, uint8 (C, H, W)), C 1 or 3, as `read_images` yields them.
    """
    try:
        import imagehash
    except ImportError:
        raise AmbientSolveError("Finding duplicates needs imagehash: pip install 'ambient-solve[train]'.") from None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, hashes = [], []
    for name, picture in pictures:
        array = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
        names.append(name)
        hashes.append(np.packbits(imagehash.phash(Image.fromarray(array.contiguous().numpy())).hash.flatten()))
    if not names:
        return []
    distinct, which = np.unique(np.stack(hashes).view(np.uint64)[:, 0], return_inverse=True)
    first, second = near_pairs(distinct)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(distinct), len(distinct)))
    group = connected_components(links, directed=False)[1][which]
    members: dict[int, list[str]] = {}
    for name, number in zip(names, group.tolist(), strict=True):
        members.setdefault(number, []).append(name)
    return [found for found in members.values() if len(found) > 1]


def near_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of positions in `hashes` (n,) uint64, distinct, whose Hamming distance is at most `NEAR`.

    Of NEAR + 1 parts of the bits, such a pair shares one: only hashes with an equal part are compared.
    """
    ends = np.linspace(0, BITS, NEAR + 2).astype(int)
    pairs = [np.empty((2, 0), int)]
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        part = hashes >> np.uint64(start) & np.uint64(2 ** int(end - start) - 1)
        order = np.argsort(part, kind="stable")
        for apart in range(1, len(hashes)):
            left, right = order[:-apart], order[apart:]
            equal = part[left] == part[right]
            if not equal.any():  # sorted: none is equal farther apart either
                break
            left, right = left[equal], right[equal]
            differ = np.unpackbits((hashes[left] ^ hashes[right]).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
            pairs.append(np.stack([left, right])[:, differ <= NEAR])
    first, second = np.concatenate(pairs, axis=1)
    return first, second
