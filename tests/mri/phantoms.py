"""Phantoms of scans whose truth is known, and the files that they are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_solve.mri.simulate import birdcage, simulate
from test_mri_data import disc

PAD = 4, 5
"""Empty columns left and right of the knee."""
KNEE = 128, 72
"""Rows, of a readout sampled twice as densely as needed, and columns."""
KNEE_SIGMA = 3e-8
"""Noise of the knee in each part of k-space, whose units are small, as those of fastMRI."""


def root_sum_of_squares(kspace: np.ndarray) -> np.ndarray:
    """(..., coils, H, W) to (..., H, W)."""
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    pictures = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    return np.sqrt((abs(pictures) ** 2).sum(-3))


def nrmse(x: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Root of the summed squares of the error over those of the reference."""
    x, reference = np.asarray(x), np.asarray(reference)
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def knee(slices: int = 2) -> np.ndarray:
    """K-space (slices, 4, *KNEE) as fastMRI keeps it: the edge that was not measured is filled with zeros."""
    rng = np.random.default_rng(0)
    picture = torch.zeros(KNEE)
    picture[32:96] = disc(64, KNEE[1])
    full = simulate(picture, birdcage(4, KNEE, rng), 1e5 * KNEE_SIGMA, rng)[0].numpy() * 1e-5
    full[..., : PAD[0]] = full[..., -PAD[1] :] = 0
    return np.stack([full * (1 - 0.2 * s) for s in range(slices)]).astype(np.complex64)


def counted_mask() -> np.ndarray:
    """A mask (W,) of R = 3 that counts four empty columns at the edge."""
    mask = np.zeros(KNEE[1], np.float32)
    mask[::4] = mask[29:43] = mask[1] = mask[70] = 1
    return mask


def write_fastmri(path: Path, kspace: np.ndarray, **arrays: np.ndarray) -> str:
    """A file with the reconstruction of the middle 64 x 64 pixels of `kspace`, and other arrays beside it."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize></{0}>"
    encoding = space.format("encodedSpace", *KNEE) + space.format("reconSpace", 64, 64)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = f"<ismrmrdHeader><encoding>{encoding}</encoding></ismrmrdHeader>"
        for name, array in arrays.items():
            file[name] = array
    return str(path)


def middle(x: Any) -> Any:
    """The 64 x 64 pixels of a knee that a fastMRI file has a reconstruction of."""
    return x[..., 32:96, 4:68]


def head(side: int = 96, coils: int = 16, snr: float = 1000.0, fine: int = 4, seed: int = 0) -> tuple[Tensor, float]:
    """A fully sampled head in `coils` local coils whose k-space holds signal to its edge: (coils, side, side), noise.

    It is drawn `fine` times finer than it is measured, with sharp edges and texture.
    """
    rng, n = np.random.default_rng(seed), side * fine
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    picture = np.zeros((n, n))
    ellipses = [(0, 0, 0.72, 0.88, 0, 1.0), (0, 0, 0.66, 0.82, 0, -0.7)]
    for _ in range(30):
        place, size = rng.uniform(-0.45, 0.45, 2), rng.uniform(0.02, 0.2, 2)
        ellipses.append((*place, *size, rng.uniform(0, 3.14), rng.uniform(-0.15, 0.3)))
    for right, down, width, height, turn, value in ellipses:
        u = (x - right) * np.cos(turn) + (y - down) * np.sin(turn)
        v = (y - down) * np.cos(turn) - (x - right) * np.sin(turn)
        picture[(u / width) ** 2 + (v / height) ** 2 < 1] += value
    texture = np.kron(rng.standard_normal((n // 2, n // 2)), np.ones((2, 2)))
    picture = picture.clip(0) * (1 + 0.15 * texture * ((x / 0.66) ** 2 + (y / 0.82) ** 2 < 1))
    complex_picture = picture.clip(0) * np.exp(1j * (0.8 * x + 0.5 * y * y))
    start, kspace = (n - side) // 2, []
    for angle in 2 * np.pi * np.arange(coils) / coils + rng.uniform(-0.1, 0.1, coils):
        across, along = x - 1.3 * np.cos(angle), y - 1.3 * np.sin(angle)
        coil = (across**2 + along**2 + 0.02) ** -0.75 * np.exp(1j * (np.arctan2(along, across) - 3 * angle))
        whole = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coil * complex_picture))) / (side * fine**2)
        kspace.append(whole[start : start + side, start : start + side])
    found = np.stack(kspace)
    sigma = float(np.percentile(root_sum_of_squares(found), 99)) / snr
    noise = rng.standard_normal((2, *found.shape))
    return torch.from_numpy((found + sigma * (noise[0] + 1j * noise[1])).astype(np.complex64)), sigma


SPACE = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>200</x><y>200</y><z>5</z></fieldOfView_mm></{0}>"  # noqa: E501
LIMITS = "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{0}</maximum><center>{1}</center></kspace_encoding_step_1></encodingLimits>"  # noqa: E501


def write_lines(
    path: Path,
    lines: Sequence[tuple[np.ndarray, int, dict[str, Any]]],
    size: tuple[int, int],
    trajectory: str = "cartesian",
    calibration: str = "",
) -> str:
    """An ISMRMRD file of single lines.

    Args:
        path: The file.
        lines: K-space (coils, samples), its place, and "flags", "center", "time" and counters by name.
        size: Samples and lines of the encoded space.
    """
    ismrmrd = pytest.importorskip("ismrmrd", reason="needs ismrmrd")
    spaces = SPACE.format("encodedSpace", *size) + SPACE.format("reconSpace", *size)
    mode = f"<parallelImaging><calibrationMode>{calibration}</calibrationMode></parallelImaging>" if calibration else ""
    header = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        f"{spaces}{LIMITS.format(size[1] - 1, size[1] // 2)}<trajectory>{trajectory}</trajectory>{mode}"
        "</encoding></ismrmrdHeader>"
    )
    dataset = ismrmrd.Dataset(str(path), create_if_needed=True)
    dataset.write_xml_header(header.encode())
    for data, column, known in lines:
        known = dict(known)
        line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data.astype(np.complex64)))
        line.idx.kspace_encode_step_1 = column
        line.center_sample = known.pop("center", data.shape[1] // 2)
        line.sample_time_us = known.pop("time", 0.0)
        line.encoding_space_ref = known.pop("space", 0)
        for flag in known.pop("flags", ()):
            line.setFlag(getattr(ismrmrd, f"ACQ_IS_{flag}"))
        for counter, value in known.items():
            setattr(line.idx, counter, value)
        dataset.append_acquisition(line)
    dataset.close()
    return str(path)
