"""Arrays of coils and of slices: read where their numbers tell which is which, asked for where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError, AmbiguousAxes
from ambient_solve.mri.scan import read_scan
from ambient_solve.mri.simulate import birdcage, simulate
from helpers import one_sentence
from phantoms import knee

SIZE = 64, 56
MASK = np.isin(np.arange(SIZE[1]), [*range(0, SIZE[1], 3), *range(22, 34)]).astype(np.float32)


def picture(seed: int) -> torch.Tensor:
    """A random anatomy: blobs inside an ellipse, whose edge is always the same."""
    rng = np.random.default_rng(seed)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    found = 0.3 * ((x / 0.7) ** 2 + (y / 0.85) ** 2 < 1).float()
    for _ in range(12):
        right, down, size = rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.6), rng.uniform(0.05, 0.25)
        found = found + rng.uniform(0, 0.8) * (((x - right) ** 2 + (y - down) ** 2) < size**2)
    return found


def coils(n: int, seed: int = 0) -> np.ndarray:
    """(n, H, W), undersampled."""
    rng = np.random.default_rng(seed)
    return MASK * simulate(picture(seed), birdcage(n, SIZE, np.random.default_rng(9)), 0.003, rng)[0].numpy()


def slices(n: int, same: bool) -> np.ndarray:
    """(n, H, W) of a single coil: `n` anatomies, or one that grows dimmer."""
    one = torch.ones(1, *SIZE, dtype=torch.complex64)
    found = [
        simulate((1 - 0.02 * i) * picture(0 if same else i), one, 0.003, np.random.default_rng(i)) for i in range(n)
    ]
    return MASK * np.stack([k[0].numpy() for k, _ in found])


def test_coils_of_several_slices_are_read_in_either_order(tmp_path):
    """Four coils of six slices: what comes first is not what makes it a slice."""
    wanted = torch.from_numpy(np.stack([coils(4, seed) for seed in range(6)]))
    np.save(tmp_path / "schw.npy", wanted.numpy())
    np.save(tmp_path / "cshw.npy", wanted.movedim(0, 1).numpy())
    plain, turned = (read_scan(tmp_path / f"{name}.npy") for name in ("schw", "cshw"))
    assert torch.equal(plain.kspace, wanted) and not plain.notes
    assert torch.equal(turned.kspace, wanted) and "c, s, h, w" in turned.notes[0]
    assert torch.equal(read_scan(tmp_path / "cshw.npy", axes="cshw").kspace, wanted)
    with pytest.raises(AmbientSolveError):  # the other reading is no scan of the same object by these coils
        read_scan(tmp_path / "cshw.npy", axes="chw")


def test_slices_of_one_coil_that_coils_could_be_are_asked_for(tmp_path, capsys):
    np.save(tmp_path / "slices.npy", slices(20, same=True))
    with pytest.raises(AmbiguousAxes) as error:
        read_scan(tmp_path / "slices.npy")
    assert one_sentence(error) and set(error.value.choices) == {"chw", "shw"}
    assert main(["mri", str(tmp_path / "slices.npy"), "--method", "cg-sense", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'axes="shw" (slices of a single coil)' in said and 'axes="chw" (coils of a single slice)' in said
    assert read_scan(tmp_path / "slices.npy", axes="shw").kspace.shape == (20, 1, *SIZE)


def test_training_data_are_asked_for_too(tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans/slices.npy", slices(3, same=True))
    words = ["mri-train", str(tmp_path / "scans"), "--out", str(tmp_path / "run"), "--size", "32", "--iterations", "3"]
    assert main(words) == 2
    assert 'axes="shw"' in capsys.readouterr().err
    assert main([*words, "--axes", "shw"]) == 0 and "3 slices" in capsys.readouterr().out


@pytest.mark.parametrize("short", [0, 2])
def test_different_anatomies_are_slices_and_one_object_is_of_coils(tmp_path, short):
    for name, given, shape in (("s", slices(12, same=False), (12, 1)), ("c", coils(6), (1, 6))):
        np.save(tmp_path / f"{name}.npy", np.moveaxis(given, 0, short))
        scan = read_scan(tmp_path / f"{name}.npy")
        assert scan.kspace.shape == (*shape, *SIZE) and name in scan.notes[0].split(" as ")[1]


def test_noise_is_no_sign_of_slices(tmp_path):
    noisy = coils(6) + 0.5 * MASK * np.random.default_rng(0).standard_normal((6, *SIZE))
    np.save(tmp_path / "noisy.npy", noisy.astype(np.complex64))
    with pytest.raises(AmbiguousAxes):
        read_scan(tmp_path / "noisy.npy")


def test_single_slices_single_coils_and_corners(tmp_path):
    for name, given, shape in (
        ("one", coils(4)[None], (1, 4)),
        ("turned", coils(4)[:, None], (1, 4)),
        ("slices", slices(12, same=False)[None], (12, 1)),
        ("single", slices(12, same=False)[:, None], (12, 1)),
        ("knee", knee(), (2, 4)),
    ):
        np.save(tmp_path / f"{name}.npy", given)
        assert read_scan(tmp_path / f"{name}.npy").kspace.shape[:2] == shape, name
    last = np.stack([coils(4, seed) for seed in range(6)]).transpose(2, 3, 1, 0)
    np.save(tmp_path / "last.npy", last)
    with pytest.raises(AmbiguousAxes, match="hwcs"):
        read_scan(tmp_path / "last.npy")
    assert read_scan(tmp_path / "last.npy", axes="hwcs").kspace.shape == (6, 4, *SIZE)
