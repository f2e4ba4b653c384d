"""The finished example of the tab for scans: the phantom of Shepp and Logan (1974), its k-space simulated.

`python -m ambient_solve.app.mri_example` reconstructs it again and writes its files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ambient_solve.app import mri_job, mri_panels

FOLDER = Path(__file__).parent / "example_files"
PICTURE, SEEN = FOLDER / "phantom.png", FOLDER / "phantom.npz"
SIDE, ORDER = 128, mri_job.ScanOrder("l1-wavelet", kind="gaussian", acceleration=3.0)


@lru_cache(maxsize=1)
def seen() -> mri_panels.Slice:
    """What the tab shows before anything was run."""
    return mri_panels.load(SEEN)


def make() -> None:
    """Draw the phantom, reconstruct it, and write the files of the example."""
    from skimage.data import shepp_logan_phantom

    phantom = Image.fromarray((255 * shepp_logan_phantom()).round().astype(np.uint8))
    phantom.resize((SIDE, SIDE), Image.Resampling.BOX).save(PICTURE, optimize=True)
    for moment in mri_job.run(ORDER, mri_job.read(PICTURE), None):
        print(moment.words, flush=True)
    found = mri_panels.shown(moment.made)
    # As coarse as the screen, which packs well.
    magnitudes = {name: (x * 255).round() / 255 for name, x in found.magnitudes.items()}
    mri_panels.store(replace(found, magnitudes=magnitudes, coils=found.coils // 4 * 4), SEEN, packed=True)


if __name__ == "__main__":
    make()
