"""Entries that hold nothing were not measured, whatever a mask says; k-space is full without them, and is centered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.prepare import Preparation, prepare
from ambient_solve.mri.problem import problem
from ambient_solve.mri.reconstruction import classical, load_mri_prior, reconstruct, retrospective
from ambient_solve.mri.report import report
from ambient_solve.mri.scan import Scan, read_scan
from helpers import one_sentence
from phantoms import KNEE, KNEE_SIGMA, PAD, counted_mask, knee, middle, nrmse, root_sum_of_squares, write_fastmri
from test_mri_data import disc, write_dicom


def test_empty_columns_that_a_mask_counts_are_left_out(tmp_path):
    full, mask = knee(), counted_mask()
    path = write_fastmri(tmp_path / "test.h5", mask * full, mask=mask)
    scan = read_scan(path)
    inside = mask.copy()
    inside[: PAD[0]] = inside[-PAD[1] :] = 0
    assert torch.equal(scan.mask[0], torch.from_numpy(inside).expand(KNEE)) and mask.sum() - inside.sum() == 4
    assert any("4 columns" in note for note in scan.notes)
    assert scan.slice(1).notes == scan.notes  # said once
    p = problem(scan.slice(0))
    found = reconstruct(p, load_mri_prior("brain-mri"), n_samples=1, options={"steps": 8})
    wanted = middle(root_sum_of_squares(full[0]))
    error = nrmse(middle(found.magnitude), wanted)
    print(f"\nnoise {p.sigma * p.scale / KNEE_SIGMA:.2f} of the true, brain-mri {error:.3f}, misfit {found.chi2:.2f}")
    assert p.sigma * p.scale == pytest.approx(KNEE_SIGMA, rel=0.15) and found.chi2 < 2 and error < 0.15
    # The control: the same without a mask, whose zeros tell it.
    assert torch.equal(Scan(torch.from_numpy(mask * full)).mask[0], scan.mask[0])


def test_empty_rows_and_scattered_entries_are_left_out_and_another_mask_is_refused():
    full, mask = knee(1), counted_mask()
    kspace, whole = torch.from_numpy(mask * full), torch.from_numpy(mask).expand(KNEE)
    rows = kspace.clone()
    rows[..., :20, :] = 0
    found = Scan(rows, whole)
    assert not found.mask[0, :20].any() and any("20 rows" in note for note in found.notes)
    scattered = kspace * (torch.arange(KNEE[0] * KNEE[1]).reshape(KNEE) % 21 != 0)
    found = Scan(scattered, whole)
    assert torch.equal(found.mask[0] > 0, (scattered[0] != 0).any(0)) and any(
        "of the entries" in n for n in found.notes
    )
    few = kspace.clone()
    few[0, :, 5, 8] = 0  # numbers that were rounded to nothing stay
    assert Scan(few, whole).mask[0, 5, 8] == 1
    with pytest.raises(AmbientSolveError, match="disagree") as error:
        Scan(kspace, whole.roll(1, -1))
    assert one_sentence(error)


def test_a_padded_scan_is_full_and_is_compared_with_the_reconstruction_of_its_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(tmp_path)
    full = knee()
    reference = middle(root_sum_of_squares(full)).astype(np.float32)
    write_fastmri(tmp_path / "full.h5", full, reconstruction_rss=reference)
    scan = read_scan("full.h5")
    assert scan.whole and scan.reference.shape == (2, 64, 64) and not scan.notes
    part = retrospective(scan.slice(0), "random", 4, 12, 0)
    assert not part.mask[..., : PAD[0]].any() and not part.mask[..., -PAD[1] :].any() and part.acs >= 12
    assert torch.equal(part.reference[0], torch.from_numpy(reference[0]))
    made = classical(problem(part), "cg-sense")
    assert made.metrics["nrmse"] == pytest.approx(nrmse(middle(made.magnitude), reference[0]), rel=1e-4)
    assert (
        made.metrics["nrmse"] < 0.4 and report(made).height > report(classical(problem(part), "zero-filled")).height / 2
    )
    words = ["mri", "full.h5", "--acceleration", "4", "--method", "cg-sense", "--slices", "1", "--out", "out"]
    assert main(words) == 0 and "NRMSE" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/full/slice-001/settings.json").read_text())["metrics"]["nrmse"] < 0.5
    # The control: what a scanner has left out inside is not full.
    holes = torch.from_numpy(full)
    holes[..., 20] = 0
    assert not Scan(holes).whole
    with pytest.raises(AmbientSolveError, match="undersampled already"):
        Scan(holes).slice(0).undersampled("random", 4, 12, 0)


@pytest.mark.parametrize("factor", [1e-3, 300.0])
def test_a_reference_in_other_units_is_left_out(tmp_path, factor):
    full = knee(1)
    reference = factor * middle(root_sum_of_squares(full))
    scan = read_scan(write_fastmri(tmp_path / "other.h5", full, reconstruction_rss=reference))
    assert scan.reference is None and any("other units" in note for note in scan.notes)


@pytest.mark.parametrize("lines", [True, False])
def test_k_space_with_its_zero_frequency_in_a_corner_is_called_so(tmp_path, lines, capsys):
    mask = counted_mask() if lines else np.ones(KNEE[1], np.float32)
    np.save(tmp_path / "corner.npy", np.fft.ifftshift(mask * knee(1), axes=(-2, -1)))
    assert main(["mri", str(tmp_path / "corner.npy"), "--method", "cg-sense", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "not centered" in said or "not in the middle" in said
    assert "numpy.fft.fftshift" in said and "axes=(-2, -1)" in said and one_sentence(said)
    assert "calibrate" not in said and "lines wide" not in said
    # The control: too few lines in the middle are called that.
    sparse = np.arange(KNEE[1]) % 4 == 0
    np.save(tmp_path / "sparse.npy", sparse * knee(1))
    assert main(["mri", str(tmp_path / "sparse.npy"), "--method", "cg-sense", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "lines wide" in said and "centered" not in said


def test_the_frame_of_a_small_slice_is_not_counted_in_training_data(tmp_path):
    pytest.importorskip("nibabel", reason="needs nibabel")
    import nibabel

    (tmp_path / "small").mkdir()
    volume = nibabel.Nifti1Image(disc(40, 40).numpy()[..., None], np.eye(4))
    nibabel.save(volume, tmp_path / "small/a.nii.gz")
    settings = Preparation(size=48, acs=8, acceleration=2.0, kinds=("random",), iterations=5)
    assert prepare([tmp_path / "small"], tmp_path / "data", settings) == 1
    (sample,) = read_corrupted(tmp_path / "data", 2)
    frame = torch.ones(48, 48)
    frame[4:44, 4:44] = 0
    assert not (sample.mask[0] * frame).any() and sample.mask[0, 4:44, 4:44].any()


def test_dicom_files_of_one_number_are_said_to_be_mixed(tmp_path):
    (tmp_path / "one").mkdir()
    write_dicom(tmp_path / "one/a.dcm", "A")
    assert not any("echoes" in note for note in read_scan(tmp_path / "one").notes)
    write_dicom(tmp_path / "one/b.dcm", "A")
    scan = read_scan(tmp_path / "one")
    assert len(scan) == 2 and any("1 of the files" in note and "echoes" in note for note in scan.notes)
