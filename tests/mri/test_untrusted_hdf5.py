"""HDF5 files that point at other files of the machine, or claim more than there is room for."""

from __future__ import annotations

import os
import shutil
import zipfile

import numpy as np
import pytest
import torch

from ambient_solve.app.scans import api, job
from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.scan import read_scan
from helpers import one_sentence
from test_mri_data import disc, write_ismrmrd

h5py = pytest.importorskip("h5py", reason="needs h5py")

SIDE = 32
SECRET = np.random.default_rng(0).random((1, SIDE, SIDE), dtype=np.float32)


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    pictures = torch.fft.fft2(torch.fft.ifftshift(disc(SIDE, SIDE).to(torch.complex64)), norm="ortho")
    return torch.fft.fftshift(pictures)[None, None].numpy()


def external(file, secret):
    file.create_dataset("reference", SECRET.shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, secret):
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = SECRET
    layout = h5py.VirtualLayout(SECRET.shape, "f4")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "x", SECRET.shape)
    file.create_virtual_dataset("reference", layout)


def linked(file, secret):
    virtual_source = secret.with_suffix(".h5")
    with h5py.File(virtual_source, "w") as other:
        other["x"] = SECRET
    file["reference"] = h5py.ExternalLink(str(virtual_source), "x")


def behind_a_soft_link(file, secret):
    linked(file, secret)
    file["hidden/link"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "x")
    del file["reference"]
    file["reference"] = h5py.SoftLink("/hidden/link")


def in_a_group(file, secret):
    external(file.create_group("a/b"), secret)
    file["reference"] = file["a/b/reference"]  # a hard link
    del file["a/b/reference"]


POINTING = {f.__name__: f for f in (external, virtual, linked, behind_a_soft_link, in_a_group)}


def pointing(folder, kind, kspace):
    """A scan whose reference is the file `secret.bin` beside it, and that file."""
    secret = folder / "secret.bin"
    secret.write_bytes(SECRET.tobytes())
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"] = kspace
        POINTING[kind](file, secret)
    return folder / "scan.h5"


@pytest.mark.parametrize("kind", POINTING)
def test_no_part_of_a_scan_lies_in_another_file(kind, tmp_path, kspace):
    scan = pointing(tmp_path, kind, kspace)
    with h5py.File(scan) as file:  # the attack works: HDF5 itself reads the other file
        assert np.array_equal(file["reference"][()], SECRET)
    for door in (scan, f"{scan}:reference", f"{scan}:kspace"):
        with pytest.raises(AmbientSolveError, match="another file|virtual array|link") as error:
            read_scan(door, axes="schw" if str(door).endswith("kspace") else "shw")
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="another file|virtual array|link"):  # as a mask
        np.save(tmp_path / "good.npy", kspace)
        read_scan(tmp_path / "good.npy", mask=f"{scan}:reference")


def test_a_reference_of_its_own_is_read(tmp_path, kspace):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace
        file["deep/er/reference"] = SECRET
        file["reference"] = h5py.SoftLink("/deep/er/reference")
        loop = file.create_group("loop")
        loop["self"] = loop  # hard links in a circle
        file["nowhere"] = h5py.SoftLink("/not/there")
    assert np.array_equal(read_scan(tmp_path / "scan.h5").reference.numpy(), SECRET)


def test_soft_links_in_a_circle_end(tmp_path, kspace):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace
        file["reference"], file["target"] = h5py.SoftLink("/target"), h5py.SoftLink("/reference")
    with pytest.raises(AmbientSolveError, match="too many links") as error:
        read_scan(tmp_path / "scan.h5")
    assert one_sentence(error)


def test_the_page_does_not_pack_a_file_of_the_server(tmp_path, kspace):
    pytest.importorskip("gradio")
    given = {"method": "zero-filled", "prior": "", "options": {}, "kind": "random", "acceleration": 1.0}
    scan = pointing(tmp_path, "external", kspace)
    with pytest.raises(AmbientSolveError, match="scan.h5 keeps its numbers in another file") as error:
        list(api.reconstructed({**given, "files": [str(scan)]}, "cpu"))
    assert str(tmp_path) not in str(error.value)
    with h5py.File(scan, "w") as file:  # control: a reference of its own does come back
        file["kspace"], file["reference"] = kspace, SECRET
    for archive, _ in api.reconstructed({**given, "files": [str(scan)]}, "cpu"):
        if archive is not None:
            with zipfile.ZipFile(archive) as pack, pack.open("slice-000/reconstruction.npz") as file:
                assert np.array_equal(np.load(file)["reference"].squeeze(), SECRET.squeeze())
                return
    raise AssertionError("no archive came back")


def test_no_command_reads_such_a_scan(tmp_path, kspace, capsys):
    (tmp_path / "scans").mkdir()
    scan = pointing(tmp_path / "scans", "external", kspace)
    assert main(["mri", str(scan), "--method", "zero-filled", "--out", str(tmp_path / "out")]) == 2
    (tmp_path / "scans" / "secret.bin").unlink()
    assert main(["mri-train", str(tmp_path / "scans"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("keeps its numbers in another file") == 2


def test_an_unknown_kind_of_link_is_refused(tmp_path, kspace):
    scan = pointing(tmp_path, "linked", kspace)
    content, name = scan.read_bytes(), b"reference"
    at = content.index(name)
    changed = [content[:i] + b"\x41" + content[i + 1 :] for i in range(at - 12, at) if content[i] == 64]
    assert len(changed) == 1, "the byte that says: an external link"
    scan.write_bytes(changed[0])
    with pytest.raises(AmbientSolveError, match="a link of an unknown type"):
        read_scan(scan)


def ismrmrd(folder, kspace, change):
    """An ISMRMRD file of `kspace`, changed by `change(file["dataset"])`."""
    noise = np.ones((1, 2 * SIDE), np.complex64)
    whole = np.repeat(kspace, 2, 0)
    import test_mri_data as written

    sizes, written.H, written.W = (written.H, written.W), SIDE, SIDE
    try:
        path = write_ismrmrd(folder / "lines.h5", whole, noise)
    finally:
        written.H, written.W = sizes
    with h5py.File(path, "r+") as file:
        change(file["dataset"], folder)
    return path


def with_header(change):
    def changed(dataset, folder):
        text = dataset["xml"][0].decode()
        assert change(text) != text
        dataset["xml"][0] = change(text)

    return changed


def with_foreign_lines(dataset, folder):
    shutil.copyfile(dataset.file.filename, folder / "other.h5")
    del dataset["data"]
    dataset["data"] = h5py.ExternalLink(str(folder / "other.h5"), "/dataset/data")


def with_endless_lines(dataset, folder):
    kind = dataset["data"].dtype
    del dataset["data"]
    dataset.create_dataset("data", (10**9,), kind, chunks=(64,))


def fixed_text(group, name, text, size):
    """A text for which the file claims `size` bytes, and of which HDF5 stores none but the first."""
    group.create_dataset(name, data=np.array(text, f"S{size}"), dtype=f"S{size}")


def with_an_endless_header(dataset, folder):
    text = dataset["xml"][0]
    del dataset["xml"]
    fixed_text(dataset, "xml", text, 1_000_001)


def bomb(text):
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    return text.replace("?>", f'?><!DOCTYPE a [<!ENTITY e0 "aaaaaaaaaa">{entities}]>').replace("cartesian", "&e9;")


LINES = {
    "half a header": (with_header(lambda t: t[: len(t) // 2]), "XML header"),
    "a header that is no header": (with_header(lambda t: "<a/>"), "XML header"),
    "a size that is no number": (with_header(lambda t: t.replace(f"<y>{SIDE}</y>", "<y>many</y>")), "XML header"),
    "entities": (with_header(bomb), "entities"),
    "an endless header": (with_an_endless_header, r"header of 1e\+06 bytes; at most 1000000"),
    "five million columns": (with_header(lambda t: t.replace(f"<y>{SIDE}</y>", "<y>500000000</y>")), "unpacks to"),
    "endless lines": (with_endless_lines, "unpacks to"),
    "lines of another file": (with_foreign_lines, "link to another file"),
}


@pytest.mark.parametrize("case", LINES)
def test_ismrmrd_headers_are_checked_before_anything_is_made(case, tmp_path, kspace):
    change, words = LINES[case]
    with pytest.raises(AmbientSolveError, match=words) as error:
        read_scan(ismrmrd(tmp_path, kspace, change))
    assert one_sentence(error)


@pytest.mark.parametrize(("size", "read"), [(10_000, True), (1_000_001, False)])
def test_a_header_beside_k_space_is_read_only_where_it_is_short(size, read, tmp_path, kspace):
    """As fastMRI stores it. The page takes the size of a voxel from it, and nothing else."""
    space = "<matrixSize><x>4</x><y>4</y><z>1</z></matrixSize><fieldOfView_mm><x>8</x><y>8</y><z>3</z></fieldOfView_mm>"
    text = f"<a><encoding><encodedSpace>{space}</encodedSpace></encoding></a>"
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace
        fixed_text(file, "ismrmrd_header", text.encode(), size)
    assert read_scan(tmp_path / "scan.h5").voxel == ((2, 2, 3) if read else None)


def test_reading_lines_leaves_their_file_as_it_was(tmp_path, kspace):
    path = ismrmrd(tmp_path, kspace, lambda dataset, folder: None)
    os.chmod(path, 0o444)
    before = os.stat(path).st_mtime_ns, open(path, "rb").read()
    assert read_scan(path).kspace.shape == (2, 1, SIDE, SIDE)
    assert (os.stat(path).st_mtime_ns, open(path, "rb").read()) == before


def odd(file):
    """An array of a type that numpy does not have: asked for its bytes, h5py raises."""
    h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4, 4)))
    with pytest.raises(TypeError):
        _ = file["time"].nbytes


CLAIMS = {
    "shape": lambda f: f.create_dataset("kspace", (10**4, 10**4, 10**2, 10**2), "c8", chunks=True),
    "reference": lambda f: f.create_dataset("reference", (10**4, 10**4, 10**3), "f4", chunks=True),
    "mask": lambda f: f.create_dataset("mask", (10**6, 10**6), "i1", chunks=True),
    "null": lambda f: f.create_dataset("kspace", data=h5py.Empty("f4")),
    "words": lambda f: f.create_dataset("kspace", (2, 2), h5py.string_dtype()),
}


@pytest.mark.parametrize("odd_beside", [False, True], ids=["", "beside an array of unknown size"])
@pytest.mark.parametrize("case", CLAIMS)
def test_what_an_array_claims_is_counted(case, odd_beside, tmp_path, kspace):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        CLAIMS[case](file)
        if odd_beside:
            odd(file)
        if "kspace" not in file:
            file["kspace"] = kspace
    for door in (read_scan, job.read_upload):
        with pytest.raises(AmbientSolveError, match="unpacks to|no array|has no 'kspace'") as error:
            door(tmp_path / "scan.h5")
        assert one_sentence(error)


def test_many_objects_are_refused(tmp_path, kspace):
    with h5py.File(tmp_path / "scan.h5", "w", libver="latest") as file:
        file["kspace"] = kspace
        for i in range(10_001):
            file[f"many/{i}"] = h5py.SoftLink("/kspace")
    with pytest.raises(AmbientSolveError, match="more than 10000"):
        read_scan(tmp_path / "scan.h5")
