"""NIfTI and DICOM: magnitudes, measured by their headers before a pixel is decoded."""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.errors import AmbientSolveError, UnreadableFile
from ambient_solve.reading.limits import check_bytes
from ambient_solve.reading.raw import SIMULATED, Raw, module, readable

MAX_OFFSET = 2**20
"""Bytes of a NIfTI header with all its extensions."""
DEFLATED = "1.2.840.10008.1.2.1.99"
"""The DICOM transfer syntax whose data set is one deflated stream."""
BEFORE_META = 128 + 4 + 12
"""Bytes in front of what a DICOM file counts as its meta information: preamble, DICM, and the count."""
SIZES = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
"""DICOM tags that say how large the pixel data are."""
KEPT = ("PixelSpacing", "SliceThickness", "InstanceNumber")
"""What is read of DICOM beside the pixels: nothing that names a patient."""


def read_nifti(path: Path, most: float) -> Raw:
    """The one volume of a NIfTI file, turned so that the slices lie as viewers show them.

    Args:
        path: The file.
        most: Bytes that the volume may take.

    Returns:
        Magnitudes as they are stored.

    Raises:
        AmbientSolveError: it cannot be read, is too large, or is not one volume.
    """
    nibabel = module("nibabel")
    with readable(path):
        kind = _nifti_kind(nibabel, path)
        image = kind.from_filename(path)
        shape, dtype = image.shape, image.get_data_dtype()
        if len(shape) not in (2, 3) or dtype.kind not in "biufc":
            raise UnreadableFile(
                path, f"has the axes {shape} of {dtype}; one volume, (H, W) or (H, W, slices), was expected."
            )
        # As stored; scaled by slope and intercept, which makes double numbers; its magnitude; and what is kept.
        wide = max(dtype.itemsize, 16 if dtype.kind == "c" else 8)
        check_bytes(math.prod(shape) * (dtype.itemsize + 2 * wide + 4 + SIMULATED), path, most)
        data = np.abs(np.asarray(image.dataobj)).astype(np.float32)
        zooms = tuple(float(n) for n in image.header.get_zooms())
    data = data.reshape(*shape, *(1,) * (3 - len(shape)))
    # Rows of the file are x.
    slices = np.ascontiguousarray(np.rot90(data).transpose(2, 0, 1))
    voxel = (zooms[1], zooms[0], zooms[2] if len(zooms) > 2 else 1.0)
    return Raw(slices[:, None], magnitude=True, voxel=voxel)


def _nifti_kind(nibabel: Any, path: Path) -> Any:
    """The class that reads `path`, once its header is known not to claim extensions of gigabytes."""
    opened = gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
    with opened as file:
        head = file.read(540)
    for kind, size in ((nibabel.Nifti1Image, 348), (nibabel.Nifti2Image, 540)):
        if len(head) >= size and size in (int.from_bytes(head[:4], order) for order in ("little", "big")):
            offset = float(kind.header_class(head[:size], check=False)["vox_offset"])
            if not 0 <= offset <= MAX_OFFSET:
                raise UnreadableFile(path, f"claims a header of {offset:g} bytes; at most {MAX_OFFSET} are read.")
            return kind
    raise UnreadableFile(path, "cannot be read; it is no NIfTI file, or not all of it.")


def read_dicom(paths: list[Path], where: Path, most: float) -> Raw:
    """The slices of a DICOM series: pixels and their size. No other tag is read but the place of a slice in the series.

    Args:
        paths: Its files.
        where: What an error names: the folder, or the file.
        most: Bytes that all of them may take.

    Returns:
        Magnitudes as they are stored.

    Raises:
        AmbientSolveError: there is no file, or one cannot be read, or they are too large or of several sizes.
    """
    pydicom = module("pydicom")
    if not paths:
        raise UnreadableFile(where, "holds no DICOM file (.dcm).", "The folder ")
    found, numbers, needed, voxel = [], [], 0.0, None
    for path in paths:
        with readable(path):
            data = _open_dicom(pydicom, path, most - needed)
            needed += _dicom_bytes(data)
            check_bytes(needed, where, most)
            with warnings.catch_warnings():
                # What a JPEG inside claims is another thing than what the tags say.
                warnings.filterwarnings("error", category=_bomb())
                pixels = np.asarray(data.pixel_array, np.float32)
            if pixels.ndim == 3 and data.get("SamplesPerPixel", 1) == 1:
                pixels = list(pixels)
            elif pixels.ndim == 2:
                pixels = [pixels]
            else:
                raise UnreadableFile(path, f"has pixels {pixels.shape}; grey slices were expected.")
            numbers.append(int(data.get(KEPT[2]) or 0))
            found += [(numbers[-1], i, p) for i, p in enumerate(pixels)]
            spacing = [float(n) for n in data.get(KEPT[0]) or (1, 1)]
            voxel = (*spacing, float(data.get(KEPT[1]) or 1))
            if len(voxel) != 3 or not all(0 < v < math.inf for v in voxel):
                raise UnreadableFile(path, f"says that its pixels are {voxel} mm large.")
    if len({p.shape for _, _, p in found}) > 1:
        raise UnreadableFile(where, "have different sizes; give one series at a time.", "The slices of ")
    slices = np.stack([p for _, _, p in sorted(found, key=lambda row: row[:2])])
    twice = len(numbers) - len(set(numbers))
    mixed = f"{twice} of the files have the number of another: several series, echoes or times are read as one volume"
    return Raw(slices[:, None], magnitude=True, voxel=voxel, notes=(mixed,) if twice else ())


def _open_dicom(pydicom: Any, path: Path, most: float) -> Any:
    """The data set of a file; one that is deflated is unpacked here, where it can be stopped."""
    check_bytes(path.stat().st_size, path, most)
    meta = pydicom.filereader.read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return pydicom.dcmread(path)
    with path.open("rb") as file:
        file.seek(BEFORE_META + int(meta.FileMetaInformationGroupLength))
        packed = file.read()
    # Pixels take more than eight times as much once they are k-space: what unpacks to more can never fit.
    inflate, room = zlib.decompressobj(-zlib.MAX_WBITS), max(int(most) // 8, 1)
    content = inflate.decompress(packed, room)
    if inflate.unconsumed_tail:
        raise UnreadableFile(path, f"unpacks to more than {room / 1e9:g} GB; give fewer slices, or smaller ones.")
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    whole = io.BytesIO()
    whole.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(whole, meta, enforce_standard=False)
    whole.write(content)
    whole.seek(0)
    return pydicom.dcmread(whole)


def _dicom_bytes(data: Any) -> float:
    """What the pixels take as decoded, as float32, stacked, and as k-space simulated of them."""
    rows, columns, frames, samples, bits = (data.get(name) for name in SIZES)
    numbers = [int(1 if n is None and i >= 2 else n) for i, n in enumerate((rows, columns, frames, samples))]
    if min(numbers) < 1:
        raise AmbientSolveError(f"The pixels are {dict(zip(SIZES, numbers, strict=False))}; at least 1 was expected.")
    stored = max(int(bits or 8) / 8, 1)
    # What lies behind the last frame comes back as further frames.
    pixels = max(math.prod(numbers), len(data.get("PixelData") or b"") / stored)
    return pixels * (2 * stored + 4 + 4 + SIMULATED)


def _bomb() -> type[Warning]:
    from PIL import Image

    return Image.DecompressionBombWarning
