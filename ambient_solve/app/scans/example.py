"""The finished example of the tab for scans: the phantom of Shepp and Logan (1974), its k-space simulated.

`python -m ambient_solve.app.scans.example` reconstructs it again and writes its files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ambient_solve.app.scans import job, panels

FOLDER = Path(__file__).parents[1] / "example_files"
"""Folder of the files of both examples."""
PICTURE = FOLDER / "phantom.png"
"""File of the phantom."""
SEEN = FOLDER / "phantom.npz"
"""File of what is shown of its reconstruction."""
SIDE = 128
"""Side of the phantom, in pixels."""
REQUEST = job.ScanRequest("l1-wavelet", kind="gaussian", acceleration=3.0)
"""Request that the example answers."""


@lru_cache(maxsize=1)
def seen() -> panels.ShownSlice:
    """What the tab shows before anything was run."""
    return panels.read_stored(SEEN)


def make_example() -> None:
    """Draw the phantom, reconstruct it, and write the files of the example."""
    from skimage.data import shepp_logan_phantom

    phantom = Image.fromarray((255 * shepp_logan_phantom()).round().astype(np.uint8))
    phantom.resize((SIDE, SIDE), Image.Resampling.BOX).save(PICTURE, optimize=True)
    for report in job.run(REQUEST, job.read_upload(PICTURE), None):
        print(report.words, flush=True)
    found = panels.stored_slice(report.made)
    # As coarse as the screen, which packs well.
    magnitudes = {name: (x * 255).round() / 255 for name, x in found.magnitudes.items()}
    panels.store(replace(found, magnitudes=magnitudes, coils=found.coils // 4 * 4), SEEN, packed=True)


if __name__ == "__main__":
    make_example()
