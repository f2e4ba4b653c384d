"""Scans come back from every format as they were written; what is wrong with a file is said; patients stay unnamed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.prepare import square
from ambient_solve.mri.scan import Scan, calibration_scale, coil_pictures, read_scan
from ambient_solve.mri.simulate import birdcage, fit_coils, simulate
from ambient_solve.operators.coils import fixed_phase
from helpers import one_sentence

SLICES, COILS, H, W = 2, 3, 36, 30


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over that of `wanted`, complex or real."""
    return float((found - wanted).abs().square().sum().sqrt() / wanted.abs().square().sum().sqrt())


def disc(height: int = H, width: int = W) -> torch.Tensor:
    """A magnitude with an edge and something inside."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return ((x**2 + y**2) < 0.6).float() * (0.6 + 0.4 * (3 * x).cos() * (4 * y).sin())


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    """(slices, coils, H, W), every second line outside the middle left out."""
    rng = np.random.default_rng(0)
    maps = birdcage(COILS, (H, W), rng)
    full = torch.stack([simulate(disc(), maps, 0.01, rng)[0] for _ in range(SLICES)])
    mask = torch.zeros(W)
    mask[::2] = mask[W // 2 - 5 : W // 2 + 5] = 1
    return (mask * full).numpy()


def write_bart(path: Path, kspace: np.ndarray, order: str = "F") -> str:
    data = np.zeros((H, W, 1, COILS, *[1] * 9, SLICES), np.complex64)
    data[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, :] = kspace.transpose(2, 3, 1, 0)
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, data.shape)) + "\n")
    data.ravel(order=order).tofile(path.with_suffix(".cfl"))
    return str(path.with_suffix(".cfl"))


def write_h5(path: Path, **arrays: np.ndarray) -> str:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return str(path)


def write_ismrmrd(path: Path, kspace: np.ndarray, noise: np.ndarray) -> str:
    """Two-fold oversampled along the readout, the lines in another order, a noise line before them."""
    ismrmrd = pytest.importorskip("ismrmrd", reason="needs ismrmrd")
    pictures = coil_pictures(torch.from_numpy(kspace)).numpy()
    wide = np.pad(pictures, ((0, 0), (0, 0), (H // 2, H // 2), (0, 0)))
    shifted = np.fft.ifftshift(wide, (-2, -1))
    raw = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), (-2, -1)).astype(np.complex64)
    space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>{1}</x><y>{3}</y><z>5</z></fieldOfView_mm></{0}>"  # noqa: E501
    limits = f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{W - 1}</maximum><center>{W // 2}</center></kspace_encoding_step_1></encodingLimits>"  # noqa: E501
    encoding = space.format("encodedSpace", 2 * H, W, 2 * W) + space.format("reconSpace", H, W, 2 * W) + limits
    header = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{encoding}<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
    dataset = ismrmrd.Dataset(str(path), create_if_needed=True)
    dataset.write_xml_header(header.encode())
    heard = ismrmrd.Acquisition.from_array(np.ascontiguousarray(noise))
    heard.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    dataset.append_acquisition(heard)
    for s in range(SLICES):
        for column in np.random.default_rng(1).permutation(W):
            if raw[s, :, :, column].any() and kspace[s, 0, 0, column] != 0:
                line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(raw[s, :, :, column]))
                line.idx.kspace_encode_step_1, line.idx.slice = int(column), s
                dataset.append_acquisition(line)
    dataset.close()
    return str(path)


def test_every_format_gives_the_same_scan(tmp_path, kspace):
    np.save(tmp_path / "a.npy", kspace)
    np.savez(tmp_path / "b.npz", kspace=np.stack([kspace.real, kspace.imag], -1), other=np.zeros(3))
    np.savez(tmp_path / "c.npz", first=np.zeros(3), second=kspace[0].transpose(1, 2, 0))
    h5 = write_h5(tmp_path / "d.h5", kspace=kspace, mask=kspace[0, 0, 0] != 0)
    bart = write_bart(tmp_path / "e", kspace)
    for path in (tmp_path / "a.npy", tmp_path / "b.npz", h5, bart, bart.replace(".cfl", ".hdr")):
        scan = read_scan(path)
        assert torch.equal(scan.kspace, torch.from_numpy(kspace)), path
        assert torch.equal(scan.mask[0], torch.from_numpy((kspace[0, 0] != 0).astype(np.float32)))
        assert not scan.simulated and scan.acs == 11  # ten lines, and one beside them that happens to be sampled
    one = read_scan(f"{tmp_path / 'c.npz'}:second")
    assert torch.equal(one.kspace[0], torch.from_numpy(kspace[0])) and "h, w, c" in one.notes[0]
    write_bart(tmp_path / "e", kspace, order="C")
    with pytest.raises(AmbientSolveError):
        read_scan(bart).slice(0)  # the same numbers in another order are no scan


def test_ismrmrd_lines_find_their_place(tmp_path, kspace):
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((COILS, 2 * H)) + 1j * rng.standard_normal((COILS, 2 * H))
    scan = read_scan(write_ismrmrd(tmp_path / "scan.h5", kspace, noise.astype(np.complex64)))
    assert scan.kspace.shape == kspace.shape and scan.voxel == (1.0, 2.0, 5.0)
    # Cropping the readout in the picture leaves out nothing but noise: the object is in the middle.
    assert apart(scan.kspace, torch.from_numpy(kspace)) < 0.02
    assert apart(scan.kspace.roll(1, -1), torch.from_numpy(kspace)) > 0.5
    assert torch.allclose(scan.noise, torch.from_numpy(noise).to(torch.complex64))
    assert torch.equal(scan.mask[0, 0] > 0, torch.from_numpy(kspace[0, 0, 0] != 0))


def test_mask_and_noise_may_lie_in_files_of_their_own(tmp_path, kspace):
    filled = np.where(kspace == 0, np.complex64(1e-6), kspace)
    np.save(tmp_path / "scan.npy", filled)
    np.save(tmp_path / "mask.npy", np.ones(W))
    noise = (np.random.default_rng(0).standard_normal((50, 2 * COILS)) + 0j).reshape(100, COILS)
    np.savez(tmp_path / "noise.npz", noise=noise)
    scan = read_scan(tmp_path / "scan.npy", mask=tmp_path / "mask.npy", noise=tmp_path / "noise.npz")
    assert scan.mask.sum() == H * W and torch.allclose(scan.noise, torch.from_numpy(noise.T).to(torch.complex64))
    np.savez(tmp_path / "few.npz", noise=noise[:2])
    with pytest.raises(AmbientSolveError, match="noise scan") as error:
        read_scan(tmp_path / "scan.npy", noise=tmp_path / "few.npz")
    assert one_sentence(error)


def test_slices_may_have_masks_of_their_own(kspace):
    other = torch.from_numpy(kspace).clone()
    other[1] = 0
    other[1, ..., 10:20] = torch.from_numpy(kspace)[1, ..., 10:20]
    scan = Scan(other)
    assert scan.mask.shape == (2, H, W) and scan.slice(1).mask.sum() == 10 * H
    assert scan.slice(0).acs == 11 and scan.slice(1).acs == 10


def test_what_is_wrong_is_said_in_a_sentence(tmp_path, kspace):
    good = tmp_path / "good.h5"
    write_h5(good, kspace=kspace)
    (tmp_path / "cut.h5").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    write_h5(tmp_path / "keys.h5", image=kspace, header=np.zeros(2))
    write_h5(tmp_path / "three.h5", kspace=kspace[0])
    np.savez(tmp_path / "real.npz", kspace=np.abs(kspace))
    np.savez(tmp_path / "mask.npz", kspace=kspace, mask=np.roll(kspace[0, 0, 0] != 0, 1))
    np.savez(tmp_path / "shape.npz", kspace=kspace, mask=np.ones((H, W + 1)))
    np.savez(tmp_path / "grey.npz", kspace=kspace, mask=0.5 * (kspace[0, 0, 0] != 0))
    no_centre = kspace.copy()
    no_centre[..., W // 2 - 1 : W // 2 + 2] = 0
    np.savez(tmp_path / "centre.npz", kspace=no_centre)
    np.savez(tmp_path / "ambiguous.npz", kspace=np.ones((40, 40, 40), np.complex64))
    (tmp_path / "text.npz").write_text("not an archive")
    bart = write_bart(tmp_path / "short", kspace)
    Path(bart).write_bytes(Path(bart).read_bytes()[:-8])
    volume = tmp_path / "volume"
    volume.with_suffix(".hdr").write_text("# Dimensions\n20 20 20 2\n")
    np.zeros(20 * 20 * 20 * 2, np.complex64).tofile(volume.with_suffix(".cfl"))
    (tmp_path / "empty").mkdir()
    cases = {
        "cut.h5": "not all of it",
        "keys.h5": "header, image",
        "three.h5": 'axes="shw"',
        "real.npz": "complex",
        "mask.npz": "disagree",
        "shape.npz": f"({H}, {W + 1})",
        "grey.npz": "besides 0",
        "centre.npz": "0 lines wide",
        "ambiguous.npz": "three-dimensional",
        "text.npz": "cannot be read",
        "short.cfl": "not complete",
        "volume.cfl": "third axis",
        "empty": "no DICOM",
        "nothing.h5": "There is no file",
        "keys.h5:nothing": "header, image",
    }
    (tmp_path / "picture.png").write_bytes(b"")
    cases["picture.png"] = "no scan by its name"
    for name, words in cases.items():
        with pytest.raises(AmbientSolveError) as error:
            read_scan(tmp_path / name).slice(0)
        assert one_sentence(error) and words in str(error.value), (name, str(error.value))
    assert len(read_scan(good)) == SLICES


def test_a_bad_slice_is_said_when_it_is_taken(kspace):
    full = np.where(kspace == 0, np.complex64(1e-3), kspace)
    for given, spoil, words in (
        (kspace, lambda k: k[1, 2].fill_(complex("nan")), "coil 2"),
        (kspace, lambda k: k[1, ..., W // 2 - 6 : W // 2 + 6].fill_(0), "all zero"),
        (full, lambda k: k[1].copy_(torch.fft.ifftshift(k[1], dim=(-2, -1))), "fftshift"),
    ):
        bad = torch.from_numpy(given).clone()
        spoil(bad)
        scan = Scan(bad, torch.from_numpy(given[0, 0] != 0).float())
        assert scan.slice(0).acs >= 11
        with pytest.raises(AmbientSolveError, match=words) as error:
            scan.slice(1)
        assert one_sentence(error)


def test_the_scale_depends_on_the_middle_alone():
    rng = np.random.default_rng(0)
    full = simulate(disc(), birdcage(COILS, (H, W), rng), 0.0, rng)[0]
    scale = calibration_scale(full)
    changed = full.clone()
    changed[:, : H // 2 - 4] *= 7
    assert calibration_scale(changed) == scale
    changed[:, H // 2] *= 7
    assert calibration_scale(changed) > 1.5 * scale
    assert calibration_scale(3 * full) == pytest.approx(3 * scale)
    bright = (coil_pictures(full / scale).abs().square().sum(0).sqrt()).quantile(0.9)
    assert 0.5 < float(bright) < 2


def test_maps_of_a_scan_can_be_continued():
    """The fitted maps explain the coils of the scan; the same number of other coils does not."""
    rng = np.random.default_rng(0)
    maps = birdcage(4, (64, 56), rng)
    full = simulate(disc(64, 56), maps, 0.0, rng)[0]
    pictures = coil_pictures(full)

    class Still:
        uniform = staticmethod(lambda low, high, n=None: 1.0 if low == 0.8 else 0.0 if n is None else np.zeros(n))
        choice = staticmethod(lambda options: options[1])

    def missed(maps: torch.Tensor) -> float:
        explained = maps * (maps.conj() * pictures).sum(0)
        return apart(explained, pictures)

    fitted = fit_coils(full, 20, 4)
    own = fitted.maps((64, 56), Still())
    # Virtual coils: the same space of maps in another basis.
    basis = fixed_phase(torch.linalg.eigh(torch.einsum("chw,dhw->cd", _low(full, 20), _low(full, 20).conj()))[1])
    turned = torch.einsum("cv,vhw->chw", basis[:, -4:].flip(-1), own)
    assert missed(turned) < 0.05
    assert missed(birdcage(4, (64, 56), np.random.default_rng(5))) > 0.2
    assert torch.allclose(own.abs().square().sum(0), torch.ones(64, 56), atol=1e-4)


def _low(kspace: torch.Tensor, acs: int) -> torch.Tensor:
    from ambient_solve.mri.simulate import _low

    return _low(kspace, acs)


def write_dicom(path: Path, name: str) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.InstitutionName = name, name + "-ID", name + " Clinic"
    data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [0.5, 0.75], 3.0, 1
    pixels = (1000 * disc(48, 40)).numpy().astype(np.uint16)
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 48, 40, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.PixelData = 15, 0, pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def contents(path: Path) -> bytes:
    """All bytes of a file, unpacked where it is packed."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return raw + gzip.decompress(raw)
    if path.suffix != ".png":
        return raw
    found, at = raw, 8
    while at < len(raw):
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        if kind in (b"zTXt", b"iTXt"):
            found += zlib.decompressobj().decompress(raw[at + 8 : at + 8 + size].split(b"\0", 2)[-1].lstrip(b"\0"))
        at += 12 + size
    return found


def test_no_tag_of_a_patient_reaches_an_output(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(tmp_path)
    secret = "Doe^Jacqueline"
    write_dicom(tmp_path / "scan.dcm", secret)
    assert secret.encode() in contents(tmp_path / "scan.dcm")
    scan = read_scan("scan.dcm")
    assert scan.simulated and scan.voxel == (0.5, 0.75, 3.0) and "simulated k-space" in scan.notes[-1]
    assert float((scan.reference[0] - disc(48, 40) / disc(48, 40).max()).abs().max()) < 0.02
    args = ["mri", "scan.dcm", "--method", "cg-sense", "--acceleration", "2", "--acs", "12", "--out", "out"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    written = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    names = {"report.png", "reconstruction.npz", "settings.json", "mean.nii.gz"}
    assert names == {p.name for p in written}
    for part in ("Doe", "Jacqueline", "Clinic"):
        assert part not in printed and not any(part.encode() in contents(p) for p in written)
    assert "simulated k-space" in (tmp_path / "out/scan/slice-000/settings.json").read_text()
    assert b"simulated k-space" in contents(tmp_path / "out/scan/mean.nii.gz")


def test_nifti_goes_in_and_out_the_same_way_up(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    from ambient_solve.mri.report import save_nifti

    volume = np.stack([(i + 1) * disc(40, 32).numpy() for i in range(3)], -1)
    volume[:5] += 2
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "in.nii.gz")
    scan = read_scan(tmp_path / "in.nii.gz")
    assert scan.simulated and scan.kspace.shape[0] == 3 and scan.kspace.shape[2:] == (32, 40)
    save_nifti(list(scan.reference.numpy()), scan.voxel, True, tmp_path / "out.nii.gz")
    back = nibabel.load(tmp_path / "out.nii.gz")
    assert tuple(map(float, back.header.get_zooms())) == (2.0, 3.0, 4.0)
    returned = np.asarray(back.dataobj)
    assert np.abs(returned / returned.max() - volume / volume.max()).max() < 1e-3
    assert np.abs(returned[::-1] / returned.max() - volume / volume.max()).max() > 0.1


def test_squares_hold_all_that_is_shown():
    wide = torch.zeros(20, 60, dtype=torch.uint8)
    wide[4:16, 2:58] = 200
    small = square(wide, 32)
    assert small.shape == (32, 32) and 20 < float(small.float().mean()) < 60
    cropped = square(torch.nn.functional.pad(wide[:, :30], (40, 7, 9, 3)), 32)
    assert int((cropped == 200).sum()) == int((wide[:, :30] == 200).sum())


def test_a_prior_that_is_not_there_is_one_sentence(tmp_path, capsys):
    np.save(tmp_path / "scan.npy", np.ones((2, 8, 8), np.complex64))
    assert main(["mri", str(tmp_path / "scan.npy"), "--prior", "brian-mri"]) == 2
    said = capsys.readouterr().err
    assert "There is no prior 'brian-mri'" in said and "Did you mean 'brain-mri'?" in said and "Traceback" not in said
