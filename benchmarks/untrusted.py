"""Peak memory of reading small files that unpack to large ones, each in a process of its own.

    python benchmarks/untrusted.py

Prints, for each attack, the size of the file, the peak memory of the process beyond what it had before, that of the
processes that it started, and what was said.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

READ = """
import os, resource, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch, numpy, PIL.Image, pydicom, nibabel, h5py, ismrmrd
from ambient_solve.app.scans import job
from ambient_solve.restore.tasks import make_task
from ambient_solve.restore.pictures import read_measurement
resource.setrlimit(resource.RLIMIT_AS, (int(14e9),) * 2)

def read(path, kernel):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        if kernel:
            make_task("gaussian-blur", kernel=str(path)).operator(read_measurement(path.with_name("small.png")))
        elif path.suffix == ".png":
            read_measurement(path, max_pixels=12_000_000)
        else:
            job.read(path)
        said = "was read"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}".replace(str(path), path.name)
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{max(own - before, 0) / 1e6:.2f} GB | {other / 1e6:.2f} GB | {' '.join(said.split())[:110]}", flush=True)

for word in sys.argv[1:]:
    path, _, kernel = word.partition("|")
    print(f"| {Path(path).name}{kernel} | {os.stat(path).st_size / 1e3:.0f} kB | ", end="", flush=True)
    child = os.fork()
    if not child:
        read(Path(path), kernel)
        os._exit(0)
    if os.wait4(child, 0)[1]:
        print("| | ended by the system", flush=True)
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| file | on disk | this process | processes it starts | it says |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        flat_png(Path(folder, "small.png"), 64, 64)
        words = [f"{make(Path(folder))}{'|' * bool(door)}{door}" for make, door in ATTACKS]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run([sys.executable, "-c", READ, *words], env=environment, cwd=folder, check=True)


def flat_png(path: Path, width: int, height: int) -> Path:
    """An RGB PNG of one colour."""
    deflate = zlib.compressobj()
    row = b"\0" + b"\x40\x80\xc0" * width
    data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def picture_of_a_zip(folder: Path) -> Path:
    """63 million pixels, as an archive of pictures may hold."""
    return flat_png(folder / "wide.png", 9000, 7000)


def dicom(path: Path, rows: int, columns: int, frames: int, deflated: bool, beyond: int = 0) -> Path:
    """Frames of a bright square, and `beyond` bytes behind them."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns, data.NumberOfFrames, data.SamplesPerPixel = rows, columns, frames, 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 8, 8, 7
    data.PixelRepresentation = 0
    pixels = np.zeros((frames, rows, columns), np.uint8)
    pixels[:, rows // 4 : rows // 2, columns // 4 : columns // 2] = 200
    data.PixelData = pixels.tobytes() + bytes(beyond)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def deflated_dicom(folder: Path) -> Path:
    """A small picture with 600 MB of zeros behind its pixels, deflated."""
    return dicom(folder / "deflated.dcm", 100, 100, 1, True, beyond=600_000_000)


def frames_of_dicom(folder: Path) -> Path:
    """300 frames, of which the tags that were read before tell one."""
    return dicom(folder / "frames.dcm", 256, 256, 300, True)


def nifti_with_a_slope(folder: Path) -> Path:
    """A volume of bytes that a slope turns into double numbers."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((700, 700, 700))
    header["scl_slope"], header["scl_inter"], header["vox_offset"], header["magic"] = 0.5, 1, 352, b"n+1"
    path = folder / "slope.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(700):
            file.write(bytes(700 * 700))
    return path


def npy_of_1e12_entries(folder: Path) -> Path:
    """A header without numbers."""
    path = folder / "endless.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<c8", "fortran_order": False, "shape": (10**6, 10**6)})
    return path


def npz_of_1e12_entries(folder: Path) -> Path:
    """The same, in an archive."""
    held = io.BytesIO(npy_of_1e12_entries(folder).read_bytes())
    with zipfile.ZipFile(folder / "endless.npz", "w") as archive:
        archive.writestr("kspace.npy", held.getvalue())
    return folder / "endless.npz"


def ismrmrd_of_500000_columns(folder: Path) -> Path:
    """One line of k-space, and a header that promises half a million."""
    import ismrmrd

    space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></{0}>"  # noqa: E501
    limits = "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>1</maximum><center>0</center></kspace_encoding_step_1></encodingLimits>"  # noqa: E501
    path = folder / "columns.h5"
    dataset = ismrmrd.Dataset(str(path), create_if_needed=True)
    dataset.write_xml_header(
        (
            '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
            "<H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
            f"{space.format('encodedSpace', 128, 500_000)}{space.format('reconSpace', 128, 500_000)}{limits}"
            "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
        ).encode()
    )
    dataset.append_acquisition(ismrmrd.Acquisition.from_array(np.ones((5, 128), np.complex64)))
    dataset.close()
    return path


ATTACKS = (
    (deflated_dicom, ""),
    (frames_of_dicom, ""),
    (nifti_with_a_slope, ""),
    (npy_of_1e12_entries, ""),
    (npz_of_1e12_entries, ""),
    (ismrmrd_of_500000_columns, ""),
    (picture_of_a_zip, ""),
    (picture_of_a_zip, ", as a kernel"),
)

if __name__ == "__main__":
    main()
