"""What the tab for scans says -> slices, reconstructed with reports on the way. Knows no gradio; `mri` does the work.

for report in run(ScanRequest("l1-wavelet", slices=(0,)), read(path), None): ...
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ambient_solve.app.folders import tame
from ambient_solve.app.panels import duration
from ambient_solve.app.uploads import open_upload
from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason, suggestion

if TYPE_CHECKING:
    from ambient_solve.mri.problem import Problem
    from ambient_solve.mri.reconstruction import Reconstruction
    from ambient_solve.mri.scan import Scan
    from ambient_solve.priors.base import Prior

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of pictures, of which the k-space is simulated."""
SCANS = (".h5", ".hdf5", ".npz", ".npy", ".cfl", ".hdr", ".nii", ".gz", ".dcm")
"""Suffixes of scans."""
LONGEST = 256
"""Longer side to which a picture is reduced before its k-space is simulated, in pixels."""
MAX_PIXELS = 12_000_000
"""Largest picture, in pixels."""
MAX_BYTES = 2_000_000_000
"""Largest scan, unpacked, in bytes."""
MAX_SLICES = 64
"""Largest number of slices of one run."""
MAX_SIDE = 1024
"""Longest side of a slice, in pixels."""
INTERVAL = 1 / 3
"""Shortest time between two previews, in seconds."""
KINDS = ("gaussian", "poisson", "radial", "random", "spiral", "uniform")
"""Kinds of masks: those of `operators.masks`, which takes torch to be asked."""
RANGES = {
    "acceleration": (1, 64, int, float),
    "acs": (2, 512, int),
    "coils": (0, 64, int),
    "samples": (1, 10_000, int),
    "seed": (0, 2**63 - 1, int),
}
"""Lowest and highest value of each number of a request, and its types."""


@dataclass(frozen=True)
class ScanRequest:
    """What is to be reconstructed, and how. The numbers lie in RANGES.

    Attributes:
        method: "prior" or one of `mri.CLASSICAL`.
        slices: Indices of the slices.
        kind: Kind of mask that undersamples a full scan, one of KINDS.
        acceleration: Its R; 1 takes all there is.
        acs: Its calibration lines.
        algorithm: Of the solver.
        knobs: Of the algorithm.
        samples: How many are drawn.
        seed: Decides the samples and the mask.
        coils: Number of virtual coils that are kept, 0 keeps those that hold more than noise.

    Raises:
        AmbientSolveError: a value is outside its range.
    """

    method: str = "l1-wavelet"
    slices: tuple[int, ...] = (0,)
    kind: str = "random"
    acceleration: float = 1.0
    acs: int = 16
    algorithm: str = "auto"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 4
    seed: int = 0
    coils: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AmbientSolveError(f"There is no mask of the kind {self.kind!r}. {suggestion(str(self.kind), KINDS)}")
        for name, (low, high, *kinds) in RANGES.items():
            value = getattr(self, name)
            if type(value) not in kinds or not low <= value <= high:
                raise AmbientSolveError(
                    f"{name} = {str(value)[:60]} was given; {low} to {high} was expected"
                    f"{'' if float in kinds else ', a whole number'}."
                )


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        share: How far it is, 0 to 1.
        words: The same for readers.
        index: The slice at work.
        preview: A magnitude (H, W) to look at.
        made: The reconstruction, as far as its samples are finished.
        finished: Whether the slice is.
    """

    share: float
    words: str
    index: int
    preview: np.ndarray | None = None
    made: Reconstruction | None = None
    finished: bool = False


def keep_uploads(uploads: Sequence[str | Path], folder: Path) -> Path:
    """Keep uploads in a folder under tame names.

    Args:
        uploads: A scan, a .cfl with its .hdr, or DICOM files.
        folder: Emptied first.

    Returns:
        What `read` takes: a file, or the folder of DICOM files.

    Raises:
        AmbientSolveError: they are no one scan.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = []
    for upload in map(Path, uploads):
        path = folder / tame(upload.name)
        if path.exists():
            raise AmbientSolveError(f"Two of the files are called {upload.name}: give them different names.")
        try:
            os.link(upload, path)
        except OSError:
            shutil.copyfile(upload, path)
        kept.append(path)
    endings = {path.suffix.lower() for path in kept}
    if len(kept) == 2 and endings == {".cfl", ".hdr"}:
        return next(path for path in kept if path.suffix.lower() == ".cfl")
    if len(kept) > 1 and endings == {".dcm"}:
        return folder
    if len(kept) != 1:
        raise AmbientSolveError(
            f"{len(kept)} files were put in; one scan was expected: a file, a .cfl and its .hdr, or DICOM files alone."
        )
    return kept[0]


def read_upload(path: Path, axes: str = "", mask: str | Path | None = None, seed: int = 0, array: str = "") -> Scan:
    """The scan that was put in, or the k-space that is simulated of a picture. Errors do not name the folder.

    Args:
        path: A file, or a folder of DICOM files.
        axes: The axes of the array, "" where they are plain.
        mask: File of the sampling mask, None where the scan says it itself.
        seed: Of the simulation.
        array: Name of the array, where the file holds several.

    Returns:
        The scan.

    Raises:
        AmbientSolveError: no scan, a damaged one, or one that is too large for the page.
    """
    from ambient_solve.mri.scan import read_scan

    try:
        if path.suffix.lower() in PICTURES:
            return _of_picture(path, seed)
        place = f"{path}:{array.strip()}" if array.strip() else path
        scan = read_scan(place, axes=axes.strip() or None, mask=mask, seed=seed, most=MAX_BYTES, apart=True)
    except UnreadableFile as error:
        raise error.called_by_name() from None
    except OSError as error:
        raise AmbientSolveError(f"{path.name} cannot be read: {reason(error, path)}.") from None
    if max(scan.kspace.shape[-2:]) > MAX_SIDE:
        raise AmbientSolveError(
            f"{path.name} has slices of {scan.kspace.shape[-2]}x{scan.kspace.shape[-1]}; the page takes sides up to "
            f"{MAX_SIDE}, ambient-solve mri takes more."
        )
    return replace(scan, source=path.name)


def command(request: ScanRequest, scan: str, prior: str = "", axes: str = "", mask: str = "") -> str:
    """The command line that repeats a request.

    Args:
        request: What was asked for.
        scan: File of the scan, or FILE:ARRAY.
        prior: Name of the prior; unused by a classical method.
        axes: What the axes of the array are; empty where it is plain.
        mask: File of the sampling mask; empty for none.

    Returns:
        The command, quoted for a shell.
    """
    words = ["ambient-solve", "mri", scan, "--method", request.method]
    if request.method == "prior":
        words += ["--prior", prior, "--algorithm", request.algorithm, "--samples", str(request.samples)]
        texts = {name: str(v).lower() if isinstance(v, bool) else v for name, v in request.knobs.items()}
        words += [f"--algorithm.{name}={text}" for name, text in texts.items()]
    words += ["--coils", str(request.coils), "--seed", str(request.seed)]
    if request.acceleration > 1:
        words += ["--acceleration", f"{request.acceleration:g}", "--kind", request.kind, "--acs", str(request.acs)]
    for flag, text in (("--axes", axes), ("--mask", mask)):
        words += [flag, text] if text else []
    return shlex.join([*words, "--slices", *map(str, request.slices)])


def about(scan: Scan) -> str:
    """What was put in, in one line."""
    slices, coils, height, width = scan.kspace.shape
    share = float(scan.mask.mean())
    whole = "fully sampled" if share == 1 else "fully sampled but for an empty edge"
    parts = [
        f"{slices} slice{'s' * (slices > 1)} of {height}x{width}, {coils} coil{'s' * (coils > 1)}",
        whole if scan.whole else f"undersampled, R = {1 / share:.2f}, {scan.acs} calibration lines",
    ]
    if scan.voxel is not None:
        parts.append("pixels of " + " x ".join(f"{size:.3g}" for size in scan.voxel[:2]) + " mm")
    return f"{scan.source}: {'; '.join([*parts, *scan.notes])}."


def run(request: ScanRequest, scan: Scan, prior: Prior | None) -> Iterator[Progress]:
    """Reconstruct the slices one after another, as `mri.reconstruct` does. Sample s depends on (seed, s) alone.

    Args:
        request: What is to be reconstructed, and how.
        scan: Holds the slices.
        prior: Of two channels, None for a method without one.

    Returns:
        An iterator over a `Progress` at most every INTERVAL seconds and whenever a sample or a slice is finished.
        Closing it ends the run.

    Raises:
        AmbientSolveError: the scan lacks a slice, or too many are asked for.
    """
    from ambient_solve.mri.problem import problem
    from ambient_solve.mri.reconstruction import classical, retrospective

    wrong = [i for i in request.slices if not 0 <= i < len(scan)]
    if wrong or not 0 < len(request.slices) <= MAX_SLICES:
        raise AmbientSolveError(
            f"{scan.source} has the slices 0 to {len(scan) - 1}, of which 1 to {MAX_SLICES} are taken at a time; "
            f"{wrong[0] if wrong else len(request.slices)} was asked for."
        )
    if request.samples < 1:
        raise AmbientSolveError(f"{request.samples} samples were asked for, at least 1 was expected.")
    started, many = time.perf_counter(), len(request.slices)
    for n, i in enumerate(request.slices):
        which = f"Slice {i}: " if many > 1 else ""
        yield Progress(n / many, f"{which}finding the coils", i)
        one = scan.slice(i)
        if request.acceleration > 1:
            one = retrospective(one, request.kind, request.acceleration, request.acs, request.seed)
        p = problem(one, request.coils)
        if prior is None:
            yield Progress(n / many, f"{which}{request.method}", i)
            made = classical(p, request.method)
        else:
            made = None
            for share, words, preview, made in _sampled(p, prior, request):
                share, words = (n + share) / many, f"{which}{words}"
                if share < 1:
                    left = (time.perf_counter() - started) * (1 - share) / share
                    words += f"; about {duration(left)} left"
                yield Progress(share, words, i, preview, made)
        words = f"Slice {i} finished" if n + 1 < many else f"Finished in {duration(time.perf_counter() - started)}"
        yield Progress((n + 1) / many, words, i, made=made, finished=True)


def zip_slices(stem: str, folder: Path, scan: Scan) -> Path:
    """Pack slices, with volumes of them all.

    Args:
        stem: First part of the name of the zip.
        folder: What `save_slice` wrote.
        scan: Says how large its voxels are.

    Returns:
        The zip, beside the folder.
    """
    from ambient_solve.app.uploads import zip_folder
    from ambient_solve.mri.report import save_nifti

    there = importlib.util.find_spec("nibabel") is not None
    if not there:
        (folder / "no-NIfTI.txt").write_text("NIfTI volumes need nibabel: pip install 'ambient-solve[mri]'.\n")
    for what in ("mean", "std") if there else ():
        volume = []
        for path in sorted(folder.glob("slice-*/reconstruction.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                volume += [np.abs(arrays[what])] if what in arrays else []
        if volume:
            save_nifti(volume, scan.voxel, scan.simulated, folder / f"{what}.nii.gz")
    return zip_folder(folder, folder.parent / f"{stem}-reconstructed.zip")


def _sampled(p: Problem, prior: Prior, request: ScanRequest) -> Iterator[tuple[float, str, Any, Any]]:
    """Share, words, and a preview or the reconstruction of the samples that are finished."""
    import torch

    from ambient_solve.algorithms.auto import for_scans, why_for_scans
    from ambient_solve.mri.reconstruction import for_scan, reconstruction
    from ambient_solve.solver import Request, Run, Solver

    algorithm = for_scans(request.algorithm)
    solver = Solver(for_scan(prior, p), algorithm, **request.knobs)
    wanted = 1 if algorithm == "aos" else request.samples
    together = prior.device.type != "cpu" or (solver.algorithm is not None and solver.algorithm.interacting)
    size, samples, shown, started = wanted if together else 1, [], 0.0, time.perf_counter()
    for first in range(0, wanted, size):
        part = Run(solver, Request(p.y, p.op, size, request.seed, p.sigma, first_sample=first))
        for state in part.states():
            share = (first + size * state.step / state.steps) / wanted
            if time.perf_counter() - shown >= INTERVAL and state.step < state.steps:
                with torch.no_grad():
                    x = p.scale * part.prior.decode(state.z0[:1])[0].norm(dim=0).float().cpu()
                yield share, f"sample {first + 1} of {wanted}, level {state.step} of {state.steps}", x.numpy(), None
                shown = time.perf_counter()
        seconds = time.perf_counter() - started
        found = part.restoration(state.z, seconds)
        samples.append(found.samples[0].cpu())
        drawn = torch.cat(samples)
        made = {"method": "prior", **found.settings, **why_for_scans(request.algorithm), "n_samples": len(drawn)}
        made = reconstruction(p, drawn, seconds, made)
        yield len(drawn) / wanted, f"{len(drawn)} of {wanted} samples finished", None, made


def _of_picture(path: Path, seed: int) -> Scan:
    """A picture as a fully sampled scan, its k-space simulated."""
    import torch

    from ambient_solve.mri.scan import simulated

    picture = open_upload(path, max_pixels=MAX_PIXELS, channels=1)
    x, notes = picture.y, list(picture.notes)
    height, width = x.shape[-2:]
    if max(height, width) > LONGEST:
        scale = LONGEST / max(height, width)
        small = max(1, round(height * scale)), max(1, round(width * scale))
        x = torch.nn.functional.interpolate(x, size=small, mode="area")
        notes.append(f"the picture was reduced from {width}x{height} to {small[1]}x{small[0]}")
    return simulated(x[0], seed, {"source": path.name, "notes": tuple(notes)})
