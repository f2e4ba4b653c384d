"""ISMRMRD: flags and counters obeyed, averages averaged, echoes put where they peak; what is left out is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.scan import Scan, read_scan
from ambient_solve.mri.simulate import birdcage, simulate
from helpers import one_sentence
from phantoms import write_lines
from test_mri_data import apart, disc

SIZE = 48, 40
COILS = 3


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    rng = np.random.default_rng(0)
    return simulate(disc(*SIZE), birdcage(COILS, SIZE, rng), 0.01, rng)[0].numpy()


def lines(full: np.ndarray, **known: object) -> list[tuple[np.ndarray, int, dict]]:
    return [(full[:, :, i], i, dict(known)) for i in range(SIZE[1])]


def read(path, given, **header) -> Scan:
    return read_scan(write_lines(path, given, SIZE, **header))


def wrong(full: np.ndarray, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 3 * (rng.standard_normal(full.shape[:2]) + 1j * rng.standard_normal(full.shape[:2]))


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("PHASECORR_DATA", "phase-correction"),
        ("NAVIGATION_DATA", "navigator"),
        ("DUMMYSCAN_DATA", "dummy"),
        ("RTFEEDBACK_DATA", "feedback"),
        ("HPFEEDBACK_DATA", "feedback"),
        ("SURFACECOILCORRECTIONSCAN_DATA", "surface coil"),
        ("PHASE_STABILIZATION", "phase stabilization"),
        ("PHASE_STABILIZATION_REFERENCE", "phase stabilization"),
    ],
)
def test_lines_that_are_of_no_picture_are_left_out(tmp_path, full, flag, words):
    extra = [(wrong(full), 20, {"flags": [flag]})] * 3
    scan = read(tmp_path / "flags.h5", lines(full) + extra)
    assert torch.equal(scan.kspace[0], torch.from_numpy(full))
    assert any(words in note and "3" in note for note in scan.notes)
    # The control: without the flag it is a line like any other, and spoils the picture.
    spoilt = read(tmp_path / "plain.h5", lines(full) + [(wrong(full), 20, {})])
    assert apart(spoilt.kspace[0], torch.from_numpy(full)) > 0.05


def test_reversed_lines_are_turned_round(tmp_path, full):
    epi = [(x if i % 2 else x[:, ::-1], i, {} if i % 2 else {"flags": ["REVERSE"]}) for x, i, _ in lines(full)]
    scan = read(tmp_path / "epi.h5", epi, trajectory="epi")
    assert torch.equal(scan.kspace[0], torch.from_numpy(full))


@pytest.mark.parametrize("backwards", [False, True])
def test_an_asymmetric_echo_peaks_in_the_middle(tmp_path, full, backwards):
    known = {"center": 12, "flags": []}
    short = [(x[:, 12:], i, dict(known)) for x, i, _ in lines(full)]
    if backwards:
        short = [(x[:, ::-1], i, {"center": 24, "flags": ["REVERSE"]}) for x, i, _ in short]
    scan = read(tmp_path / "echo.h5", short)
    assert scan.kspace.shape == (1, COILS, *SIZE)
    assert torch.equal(scan.kspace[0, :, 12:], torch.from_numpy(full[:, 12:]))
    assert not scan.kspace[0, :, :12].any() and not scan.mask[0, :12].any()


def test_averages_are_averaged_and_their_noise_is_that_of_the_average(tmp_path, full):
    rng = np.random.default_rng(3)
    draw = lambda *shape: 0.05 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))  # noqa: E731
    noisy = [(full[:, :, i] + draw(COILS, SIZE[0]), i, {"average": j}) for i in range(SIZE[1]) for j in range(4)]
    heard = (draw(COILS, 4000), 0, {"flags": ["NOISE_MEASUREMENT"]})
    scan = read(tmp_path / "averages.h5", [heard, *noisy])
    error = (scan.kspace[0] - torch.from_numpy(full)).abs().square().mean().div(2).sqrt()
    assert float(error) == pytest.approx(0.025, rel=0.05) and any("4 times and averaged" in n for n in scan.notes)
    assert float(scan.noise.abs().square().mean().div(2).sqrt()) == pytest.approx(0.025, rel=0.05)


def test_the_noise_of_a_wider_band_is_louder(tmp_path, full):
    rng = np.random.default_rng(3)
    heard = 0.05 * (rng.standard_normal((COILS, 4000)) + 1j * rng.standard_normal((COILS, 4000)))
    wide = [(heard, 0, {"flags": ["NOISE_MEASUREMENT"], "time": 10.0}), *lines(full, time=2.5)]
    scan = read(tmp_path / "band.h5", wide)
    assert float(scan.noise.abs().square().mean().div(2).sqrt()) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("counter", ["repetition", "contrast", "set", "phase"])
def test_other_pictures_of_the_file_are_left_out_and_said(tmp_path, full, counter):
    scan = read(tmp_path / "two.h5", lines(full, **{counter: 1}) + lines(2 * full, **{counter: 3}))
    assert torch.equal(scan.kspace[0], torch.from_numpy(full))
    assert scan.notes == (f"the first of 2 {counter}s alone was read",)
    assert not read(tmp_path / "one.h5", lines(full)).notes


def test_calibration_lines_fill_gaps_and_those_of_another_scan_do_not(tmp_path, full):
    every = lines(full)
    coarse, within = every[::2], [(x, i, {"flags": ["PARALLEL_CALIBRATION"]}) for x, i, _ in every[15:26]]
    both = torch.zeros(SIZE[1])
    both[::2] = both[15:26] = 1
    scan = read(tmp_path / "in.h5", coarse + [(0.3 * x if i % 2 == 0 else x, i, dict(k)) for x, i, k in within])
    assert torch.equal(scan.kspace[0], both * torch.from_numpy(full))
    assert any("already" in note for note in scan.notes)
    other = [(0.3 * x[:, 12:36], i, dict(k)) for x, i, k in within]
    scan = read(tmp_path / "short.h5", every + other)
    assert torch.equal(scan.kspace[0], torch.from_numpy(full)) and any("of their own" in n for n in scan.notes)
    outer = [(0.3 * x, i, {"flags": ["PARALLEL_CALIBRATION"]}) for x, i, _ in every[1::2]]
    kept = every[::2] + every[15:26:2]
    scan = read(tmp_path / "apart.h5", kept + outer, calibration="external")
    assert torch.equal(scan.kspace[0], both * torch.from_numpy(full))


def test_other_coils_other_spaces_and_lines_outside_are_said(tmp_path, full):
    strange = [(full[:2, :, 3], 3, {}), (2 * full[:, :, 4], 4, {"space": 1})]
    scan = read(tmp_path / "strange.h5", lines(full) + strange)
    assert torch.equal(scan.kspace[0], torch.from_numpy(full))
    assert len(scan.notes) == 2 and "other coils" in scan.notes[1] and "encoding space" in scan.notes[0]


def test_a_spiral_is_refused(tmp_path, full):
    with pytest.raises(AmbientSolveError, match="spiral") as error:
        read(tmp_path / "spiral.h5", lines(full), trajectory="spiral")
    assert one_sentence(error)
