"""The XML header of ISMRMRD and fastMRI files: sizes of the two spaces, the middle line, the voxel, the trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason

MAX_HEADER = 1_000_000
"""Characters of the largest XML header."""
NO_LINES = ("radial", "goldenangle", "spiral")
"""Trajectories that are not on a grid."""
APART = ("separate", "external")
"""Modes of calibration whose lines are a scan of their own."""


@dataclass(frozen=True)
class Header:
    """What is used of the XML header.

    Attributes:
        lines: Lines of the encoded space. samples: Samples of one of them, 0 where it does not say.
        readout: Samples of one line of the reconstructed space. centre: The line of zero frequency, 0 if unknown.
        voxel: Its size in mm. calibration: How calibration lines were acquired, "" if it does not say.
    """

    lines: int
    samples: int
    readout: int
    centre: int
    voxel: tuple[float, float, float] | None
    calibration: str = ""


def read_header(text: str, path: Path) -> Header:
    """What the XML header of an ISMRMRD file says.

    Args:
        text: The XML.
        path: The file, which errors name.

    Returns:
        The sizes of the encoded and the reconstructed space, the centre line and the voxel.

    Raises:
        AmbientSolveError: it is not XML, or does not give these sizes.
    """
    try:
        encoding = _child(_parsed(text), "encoding")
        encoded, wanted = (_child(_child(encoding, s), "matrixSize") for s in ("encodedSpace", "reconSpace"))
        limits = _child(_child(encoding, "encodingLimits"), "kspace_encoding_step_1")
        centre = _child(limits, "center")
        lines, readout = (int(_child(m, axis).text) for m, axis in ((encoded, "y"), (wanted, "x")))
        samples, trajectory = int(_words(encoded, "x") or 0), _words(encoding, "trajectory")
        mode = _words(encoding, "parallelImaging", "calibrationMode")
        header = Header(lines, samples, readout, 0 if centre is None else int(centre.text), _voxel(encoding), mode)
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise UnreadableFile(
            path,
            f"has an XML header that cannot be read ({reason(error)}); the sizes of encodedSpace and reconSpace "
            "were expected, as whole numbers.",
        ) from None
    if min(header.lines, header.readout) < 1:
        raise UnreadableFile(path, f"has an XML header with sizes of {header.lines} and {header.readout}.")
    if trajectory in NO_LINES:
        raise UnreadableFile(
            path, f"is a scan along a {trajectory} trajectory; lines of a Cartesian grid were expected: grid it first."
        )
    return header


def voxel_of(header: str) -> tuple[float, float, float] | None:
    """Size of a voxel in mm from an ISMRMRD header, None where it does not tell; rows are the readout, its x."""
    try:
        return _voxel(_child(_parsed(header), "encoding"))
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError):  # an AmbientSolveError is a ValueError
        return None


def _parsed(text: str) -> ElementTree.Element:
    if len(text) > MAX_HEADER or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AmbientSolveError("The XML header is too long, or defines entities of its own, which are never read.")
    return ElementTree.fromstring(text)


def _child(element: ElementTree.Element | None, name: str) -> ElementTree.Element | None:
    """The first child of that name, whatever its namespace."""
    children = () if element is None else element
    return next((c for c in children if c.tag.rpartition("}")[2] == name), None)


def _words(element: ElementTree.Element | None, *names: str) -> str:
    """The text of the element along these names, in lower case; "" where there is none."""
    for name in names:
        element = _child(element, name)
    return "" if element is None else (element.text or "").strip().lower()


def _voxel(encoding: ElementTree.Element | None) -> tuple[float, float, float] | None:
    space = _child(encoding, "encodedSpace")
    matrix, field = (_child(space, name) for name in ("matrixSize", "fieldOfView_mm"))
    if matrix is None or field is None:
        return None
    sizes = [[float(_child(s, axis).text) for axis in "xyz"] for s in (field, matrix)]
    voxel = tuple(f / max(n, 1) for f, n in zip(*sizes, strict=True))
    return voxel if all(0 < v < math.inf for v in voxel) else None
