"""Files that claim more than there is room for, and tables that name files outside of their folder."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ambient_solve.app.scans import job
from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.images import read_images
from ambient_solve.data.table import read_table
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri import apart
from ambient_solve.mri.files import read_array
from ambient_solve.mri.prepare import Preparation, prepare
from ambient_solve.mri.scan import read_scan
from helpers import one_sentence


def refused(path, words, limit=None, monkeypatch=None):
    """At the page and, where there is no `limit`, in the library."""
    if limit is not None:
        monkeypatch.setattr(job, "MAX_BYTES", limit)
    for door in (job.read_upload, *(() if limit else (read_scan,))):
        with pytest.raises(AmbientSolveError, match=words) as error:
            door(path)
        assert one_sentence(error)
    if limit is not None:
        monkeypatch.undo()


def test_a_deflated_dicom_is_unpacked_no_further_than_there_is_room(tmp_path, monkeypatch):
    pytest.importorskip("pydicom", reason="needs pydicom")
    from untrusted import dicom

    bomb = dicom(tmp_path / "bomb.dcm", 1000, 1000, 60, True)
    assert bomb.stat().st_size < 200_000
    refused(bomb, "unpacks to more than 0.0125 GB", 100_000_000, monkeypatch)
    good = dicom(tmp_path / "good.dcm", 48, 40, 3, True)
    assert len(job.read_upload(good)) == 3, "control: a deflated file that fits is read"
    assert torch.equal(
        job.read_upload(good).reference, read_scan(dicom(tmp_path / "p.dcm", 48, 40, 3, False)).reference
    )


def test_the_frames_of_a_dicom_are_counted(tmp_path, monkeypatch):
    pytest.importorskip("pydicom", reason="needs pydicom")
    from untrusted import dicom

    frames = dicom(tmp_path / "frames.dcm", 64, 64, 30, False)
    refused(frames, "unpacks to", 1_000_000, monkeypatch)
    assert len(job.read_upload(frames)) == 30
    # What lies behind the frames that are named comes back as frames, too.
    refused(dicom(tmp_path / "more.dcm", 64, 64, 1, False, beyond=10**6), "unpacks to", 5_000_000, monkeypatch)


def nifti(path, slope, offset=352, shape=(64, 64, 64)):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["scl_slope"], header["scl_inter"], header["vox_offset"], header["magic"] = slope, 0, offset, b"n+1"
    volume = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8)
    path.write_bytes(header.binaryblock + b"\0" * 4 + volume.tobytes())
    return path


def test_a_volume_is_counted_as_it_is_decoded(tmp_path, monkeypatch):
    refused(nifti(tmp_path / "slope.nii", 0.5), "unpacks to", 3_000_000, monkeypatch)
    refused(nifti(tmp_path / "header.nii", 1.0, offset=1e9), r"claims a header of 1e\+09 bytes")
    refused(nifti(tmp_path / "nan.nii", 1.0, offset=float("nan")), "claims a header of nan bytes")
    (tmp_path / "short.nii").write_bytes(b"\x5c\1\0\0")
    refused(tmp_path / "short.nii", "cannot be read")
    assert len(job.read_upload(nifti(tmp_path / "good.nii", 0.5))) == 64


def header(shape, extra=b"", descr="<c8") -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": descr, "fortran_order": False, "shape": shape})
    return held.getvalue() + extra


NPY = {
    "endless": (header((10**6, 10**6)), "unpacks to 8000.0 GB"),
    "beyond all numbers": (header((2**62, 2**62)), "unpacks to"),
    "cut": (header((4, 40, 40), bytes(100)), "not all of it"),
    "objects": (header((2, 2), bytes(100), "|O"), "no array of numbers"),
    "words": (header((2, 2), bytes(100), "<U8"), "no array of numbers"),
    "nested": (b"\x93NUMPY\1\0" + (9000).to_bytes(2, "little") + b"(" * 9000, "cannot be read"),
    "endless header": (
        b"\x93NUMPY\2\0" + (4 * 10**9).to_bytes(4, "little") + b" " * 20_000,
        "claims a header of 4000000000 bytes",
    ),
    "another version": (b"\x93NUMPY\3\0" + bytes(100), "version"),
}


@pytest.mark.parametrize("case", NPY)
def test_headers_of_arrays_are_read_before_arrays(case, tmp_path):
    content, words = NPY[case]
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("kspace.npy", content)
    np.save(tmp_path / "good.npy", np.ones((4, 40, 40), np.complex64))
    for name in ("a.npy", "a.npz"):
        refused(tmp_path / name, words)
        with pytest.raises(AmbientSolveError, match=words):
            read_array(tmp_path / name, ("mask",))
        assert main(["mri", str(tmp_path / name), "--method", "zero-filled", "--out", str(tmp_path / "out")]) == 2


def test_packs_of_training_are_counted_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "pack.npz", "w") as archive:
        archive.writestr("data.npy", header((10**13,), descr="|u1"))
        archive.writestr("offsets.npy", header((10**12,), descr="<i8"))
        archive.writestr("label.npy", header((10**12,), descr="<U9"))
    with pytest.raises(AmbientSolveError, match="unpacks to"):
        next(read_images(tmp_path / "pack.npz"))
    with pytest.raises(AmbientSolveError, match="unpacks to"):
        prepare([tmp_path / "pack.npz"], tmp_path / "out", Preparation())


def test_sizes_of_bart_are_counted(tmp_path):
    (tmp_path / "a.cfl").write_bytes(bytes(8))
    for text, words in (("1000000 1000000", "unpacks to"), ("1 " * 5000, "no sizes"), ("9" * 5000, "cannot be read")):
        (tmp_path / "a.hdr").write_text(f"# Dimensions\n{text}\n")
        refused(tmp_path / "a.cfl", words)


def test_another_process_reads_the_same(tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 3, 40, 36)) + 1j * rng.standard_normal((2, 3, 40, 36))).astype(np.complex64)
    np.savez(tmp_path / "s.npz", kspace=kspace, reference=np.abs(kspace[:, 0]))
    np.save(tmp_path / "mask.npy", np.ones(36))
    np.save(tmp_path / "noise.npy", kspace.reshape(-1, 3))
    given = (str(tmp_path / "s.npz"), "schw", str(tmp_path / "mask.npy"), str(tmp_path / "noise.npy"), 1e9)
    here, there = apart.read_all(*given), apart.read_apart(*given)
    for name in apart.ARRAYS:
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert (here.magnitude, here.voxel, here.notes) == (there.magnitude, there.voxel, there.notes)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not limit the memory of a process")
@pytest.mark.parametrize(("room", "fits"), [(200_000_000, False), (1_200_000_000, True)])
def test_a_process_takes_no_more_than_it_may(room, fits):
    code = f"from ambient_solve.mri.apart import limit_memory as l\nl({room})\nprint(len(bytearray(800_000_000)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout.strip() == "800000000") is fits and ("MemoryError" in ended.stderr) is not fits


def test_a_process_that_is_ended_is_a_sentence(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros(3))
    monkeypatch.setattr(apart.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, -9, b"", b""))
    with pytest.raises(AmbientSolveError, match="^a.npy cannot be read: the process") as error:
        job.read_upload(tmp_path / "a.npy")
    assert one_sentence(error)


@pytest.fixture
def outside(tmp_path):
    """A picture and a sample beside the folder of a data set, which has links to them and a picture of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (tmp_path / "secret.png", folder / "own.png"):
        Image.new("RGB", (8, 8), "white").save(path)
    save_file({"z": torch.zeros(3, 8, 8)}, tmp_path / "secret.safetensors")
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    return folder


def row(folder, **changes):
    (folder / "manifest.jsonl").write_text(json.dumps({"file": "own.png", "sigma_noise": 0, **changes}) + "\n")
    return folder


def test_a_manifest_names_files_of_its_folder(outside, tmp_path):
    absolute = str(tmp_path / "secret.png")
    for name in ("../secret.png", "../secret.safetensors", absolute, "link.png", "a/../../secret.png"):
        with pytest.raises(AmbientSolveError, match="leads out of the folder") as error:
            list(read_corrupted(row(outside, file=name)))
        assert one_sentence(error)
        if "a/" not in name:
            assert len(list(read_corrupted(outside, follow_outside=True))) == 1, "control: where it is trusted"
    for name in ("../secret.png", absolute, "link.png"):
        with pytest.raises(AmbientSolveError, match="leads out of the folder"):
            list(read_corrupted(row(outside, mask=name)))
    assert len(list(read_corrupted(row(outside)))) == 1, "control: a file of the folder"
    assert len(list(read_corrupted(row(outside, file=str(outside / "own.png"))))) == 1


ROWS = {
    "nested": "[" * 100_000,
    "a number of 400 digits": json.dumps({"file": "own.png", "sigma_noise": 10**400}),
    "a row for a file": json.dumps({"file": ["own.png"], "sigma_noise": 0}),
    "nothing for a file": json.dumps({"file": "", "sigma_noise": 0}),
    "a null byte": json.dumps({"file": "a\0.png", "sigma_noise": 0}),
    "no text": b"\xff\xff",
}


@pytest.mark.parametrize("case", ROWS)
def test_a_hostile_row_is_a_sentence_with_its_line(case, outside):
    content = ROWS[case]
    (outside / "manifest.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AmbientSolveError, match="manifest.jsonl, line 1") as error:
        list(read_corrupted(outside))
    assert one_sentence(error)
    (outside / "table.jsonl").write_bytes((outside / "manifest.jsonl").read_bytes())
    with pytest.raises(AmbientSolveError, match="table.jsonl, line 1") as error:
        read_table(outside / "table.jsonl")
    assert one_sentence(error)
