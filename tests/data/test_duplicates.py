"""Near-duplicates are found among thousands, and different pictures are not called the same."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve.data.duplicates import NEAR, duplicate_groups, near_pairs
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence


def photo(seed: int, size: int = 64) -> Image.Image:
    """A random scene: large shapes, fine texture."""
    draw = np.random.default_rng(seed)
    large = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    texture = draw.integers(-10, 11, (size, size, 3))
    return Image.fromarray((np.asarray(large).astype(int) + texture).clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def test_copies_are_found_and_other_pictures_are_not():
    pytest.importorskip("imagehash")
    pictures = [(f"{seed}.png", tensor(photo(seed))) for seed in range(60)]
    pictures += [
        ("3-again.png", tensor(photo(3))),
        ("5.jpg", tensor(encoded(photo(5), 40))),
        ("5-small.png", tensor(photo(5).resize((40, 40), Image.Resampling.LANCZOS))),
        ("7-turned.png", tensor(photo(7).transpose(Image.Transpose.ROTATE_90))),
    ]
    assert duplicate_groups(pictures) == [["3.png", "3-again.png"], ["5.png", "5.jpg", "5-small.png"]]
    grey = [(name, picture[:1]) for name, picture in pictures]
    assert ["5.png", "5.jpg", "5-small.png"] in duplicate_groups(iter(grey))
    assert duplicate_groups([]) == []


def test_near_pairs_are_those_of_brute_force():
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 300, dtype=np.uint64)
    for i in range(150):  # 0 to 6 flipped bits
        flipped = sum(1 << int(bit) for bit in draw.permutation(64)[: i % 7])
        hashes[i] = hashes[i + 150] ^ np.uint64(flipped)
    hashes = np.unique(hashes)
    found = {frozenset(pair) for pair in zip(*(part.tolist() for part in near_pairs(hashes)), strict=True)}

    def within(distance: int) -> set[frozenset[int]]:
        numbers = hashes.tolist()
        apart = {(i, j): (a ^ b).bit_count() for i, a in enumerate(numbers) for j, b in enumerate(numbers[:i])}
        return {frozenset(pair) for pair, d in apart.items() if d <= distance}

    assert found == within(NEAR) and len(found) > 80
    assert found != within(NEAR - 1) and found != within(NEAR + 1)


def test_twenty_thousand_hashes_take_seconds():
    draw = np.random.default_rng(0)
    hashes = np.unique(draw.integers(0, 2**63, 20_000, dtype=np.uint64))
    started = time.process_time()
    first, _ = near_pairs(hashes)
    assert time.process_time() - started < 5 and len(first) < 10


def test_without_imagehash_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(AmbientSolveError, match=r"pip install 'ambient-solve\[train\]'") as error:
        duplicate_groups([("a", torch.zeros(3, 8, 8, dtype=torch.uint8))])
    assert one_sentence(error)
