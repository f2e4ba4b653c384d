"""A data set whose pictures changed while it was being damaged is not finished with the others."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.data.corruption import MANIFEST, Corruption, fingerprint, read_corrupted, write_corrupted
from ambient_solve.data.damages import JpegBlocks, Noise, RandomMask
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence, rand

MIXTURE = Corruption(3, 0.25, (Noise(sigma=0.3), JpegBlocks(quality=20, sigma_min=1.5), RandomMask(sigma=0.1)))


def pictures(n: int) -> list[tuple[str, torch.Tensor]]:
    return [(f"{k}.png", (255 * rand(3, 16, 16, seed=k)).to(torch.uint8)) for k in range(n)]


@pytest.mark.parametrize("changed", range(5))
def test_a_picture_that_changed_since_is_refused_by_name(tmp_path, changed):
    """Whatever was done to it: of the five two have gaps, two are noisy and one is compressed."""
    with pytest.raises(AmbientSolveError, match="but 5 came"):
        write_corrupted(pictures(5), 8, MIXTURE, tmp_path / "set", "a")
    others = pictures(8)
    others[changed] = (f"{changed}.png", others[changed][1].flip(-1))
    with pytest.raises(AmbientSolveError, match=f"{changed}.png is not the picture that it was made of") as error:
        write_corrupted(others, 8, MIXTURE, tmp_path / "set", "a")
    assert one_sentence(error) and not (tmp_path / "set" / MANIFEST).exists()
    write_corrupted(pictures(8), 8, MIXTURE, tmp_path / "set", "a")
    write_corrupted(pictures(8), 8, MIXTURE, tmp_path / "whole", "a")
    assert fingerprint(read_corrupted(tmp_path / "set")) == fingerprint(read_corrupted(tmp_path / "whole"))


def test_another_size_is_another_picture(tmp_path):
    with pytest.raises(AmbientSolveError, match="but 2 came"):
        write_corrupted(pictures(2), 4, MIXTURE, tmp_path / "set")
    small = [(name, picture[:, :8]) for name, picture in pictures(4)]
    with pytest.raises(AmbientSolveError, match="0.png is not the picture"):
        write_corrupted(small, 4, MIXTURE, tmp_path / "set")
