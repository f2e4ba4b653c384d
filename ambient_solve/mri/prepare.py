"""Undersampled scans as the trainer stores them: what `ambient-solve mri-train` prepares for `trainers/train.py`.

Of each slice the least picture that explains its k-space is kept, `w` with `A^H A w = A^H y`, beside its mask and its
coil maps: see `objectives/kspace.py`, which then needs no solve (`cg_iterations: 0`). Scans come as they are; pictures
and magnitudes are turned into simulated k-space first, all slices of one volume on one side of any split.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ambient_solve.data.corruption import MANIFEST, RUN
from ambient_solve.data.images import SUFFIXES as PICTURES
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.errors import AmbientSolveError, shown, suggestion
from ambient_solve.evaluate.baselines import wavelet
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.mri.files import SUFFIXES as SCANS
from ambient_solve.mri.ismrmrd_files import cropped_readout
from ambient_solve.mri.problem import problem
from ambient_solve.mri.scan import Scan, calibration_scale, read_scan
from ambient_solve.mri.simulate import Head, birdcage, fit_coils, simulate
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.reading.numpy_files import open_numpy
from ambient_solve.reading.raw import LIMIT, load
from ambient_solve.resume import remember
from ambient_solve.saving import save_tensors

TARGETS = {"ambient": "kspace", "clean": "noise", "l1": "l1-wavelet"}
"""What may be stored of a slice, and the damage it then counts as."""
LABELS = "biuUS"
"""The kinds of numpy types that name a volume: whole numbers and words."""
EMPTY = 0.04
"""Mean of a magnitude in [0, 1] below which a slice shows next to nothing."""


@dataclass(frozen=True)
class Preparation:
    """How scans become training samples; all but the first three concern simulated k-space alone."""

    size: int = knob(128, 16, 1024, "side of the square that the slices are brought to")
    coils: int = knob(4, 1, 64, "virtual coils that are kept")
    iterations: int = knob(10, 1, 1000, "steps of the solve for the least picture that explains a slice")
    target: str = knob(
        "ambient", choices=tuple(TARGETS), help="store what was measured, all of it, or its L1-wavelet picture"
    )
    acceleration: float = knob(4.0, 1.0, 64.0, "R: one line or point of R is measured")
    kinds: tuple[str, ...] = ("random", "random", "uniform", "poisson")
    acs: int = knob(8, 2, 512, "fully sampled lines in the middle")
    sigma: float = knob(0.02, 0.0, 10.0, "noise of each part of k-space, where the calibration region is at most 1")
    limit: int = knob(0, 0, help="slices of each source, drawn at random; 0 is all")
    seed: int = knob(0, 0, help="decides the slices, coils, phases, masks and noise")

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class Slice:
    """One measured slice: k-space (coils, H, W) of which `mask` (H, W) was sampled, maps, and noise level."""

    name: str
    kspace: Tensor
    mask: Tensor
    maps: Tensor
    sigma: float


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: Preparation,
    *,
    held_out: Sequence[str] = (),
    coils_of: str | Path | None = None,
    axes: str | None = None,
    tell: Callable[[str], object] = lambda name: None,
) -> int:
    """Write the slices of `sources` to the folder `out`, as `read_corrupted` reads them; returns their number.

    An interrupted call goes on where it was: what is drawn for slice i depends on (seed, i) alone.

    Args:
        sources: Folders or files of k-space; or of magnitudes, which are simulated.
        out: Folder of the data; one that holds finished data is refused.
        settings: Size, coils, masks and noise.
        held_out: Volumes that are left out: names of files without endings, or labels of a pack; each must be there.
        coils_of: A scan whose coils every second simulated slice gets, turned and moved at random.
        axes: What the axes of arrays are, such as "chw" or "schw", where it is not plain.
        tell: Called with the name of each slice that is written.

    Returns:
        How many slices there are.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise AmbientSolveError(f"{out} already holds prepared data: choose another folder, or delete it.")
    _refuse_unknown(held_out, [Path(source) for source in sources])
    out.mkdir(parents=True, exist_ok=True)
    asked = {**asdict(settings), "sources": [str(s) for s in sources], "held_out": list(held_out)}
    asked |= {"coils_of": None if coils_of is None else str(coils_of)} | ({"axes": axes} if axes else {})
    part = out / (MANIFEST + ".part")
    rows = part.read_text().splitlines(keepends=True) if part.is_file() else []
    rows = [row for row in rows if row.endswith("\n")]
    # Settings with which nothing was made yet, as those of a file that was refused, bind nobody.
    remember(out / RUN, asked, bool(rows))
    index = 0
    with part.open("w") as manifest:
        manifest.writelines(rows)
        manifest.flush()
        for index, (name, make) in enumerate(_slices(sources, settings, held_out, coils_of, axes), 1):
            if index > len(rows):
                file = f"{index - 1:06d}.safetensors"
                sigma_noise = _store(make(), out / file, settings)
                row = {"file": file, "name": name, "sigma_noise": sigma_noise, "damage": TARGETS[settings.target]}
                manifest.write(json.dumps(row) + "\n")
                manifest.flush()
                tell(name)
    if not index:
        raise AmbientSolveError(f"{', '.join(map(str, sources))}: no slice is left to train on.")
    os.replace(part, out / MANIFEST)
    return index


def least_picture(kspace: Tensor, mask: Tensor, maps: Tensor, iterations: int) -> Tensor:
    """The picture of least norm that agrees with the data, `A^H A w = A^H y`, by conjugate gradients.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.
        maps: Coil maps, (coils, H, W) complex.
        iterations: Steps; few of them keep noise out where the coils see little.

    Returns:
        Real and imaginary part, (2, H, W).
    """
    op = MultiCoil(maps, mask)
    stored = op.A_adjoint(torch.view_as_real(mask * kspace).movedim(-1, 0)[None])
    return conjugate_gradient(op.A_adjoint_A, stored, iterations)[0]


def _store(measured: Slice, file: Path, settings: Preparation) -> float:
    """Write one slice; returns the level of its noise in the units of the prior."""
    scale = calibration_scale(measured.kspace)
    kspace, sigma = measured.kspace / scale, measured.sigma / scale
    tensors = {"z": least_picture(kspace, measured.mask, measured.maps, settings.iterations)}
    if settings.target == "ambient":
        tensors |= {"mask": measured.mask[None].to(torch.uint8), "maps": measured.maps}
    if settings.target == "l1":
        y = torch.view_as_real(measured.mask * kspace).movedim(-1, 0)[None]
        tensors["z"] = wavelet(y, MultiCoil(measured.maps, measured.mask, sigma), iterations=60)[0]
    tensors["z"] = tensors["z"].half()
    save_tensors({k: v.contiguous() for k, v in tensors.items()}, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)
    return 0.0 if settings.target == "l1" else sigma


Made = tuple[str, Callable[[], Slice]]
"""The name of a slice, and what makes it."""


def _slices(
    sources: Sequence[str | Path],
    settings: Preparation,
    held_out: Sequence[str],
    coils_of: str | Path | None,
    axes: str | None,
) -> Iterator[Made]:
    """Every slice of all sources, in a fixed order, made when it is asked for."""
    head, number = None, 0
    if coils_of is not None:
        scan = read_scan(coils_of)
        head = fit_coils(scan.kspace[0], min(scan.acs, 32), settings.coils)
    for source in sources:
        found = _scans(Path(source), settings, held_out, axes) if _is_scans(Path(source)) else None
        if found is None:
            found = _pictures(str(source), settings, held_out, head, number)
        for made in found:
            number += 1
            yield made


def _is_scans(source: Path) -> bool:
    """Whether `source` is a scan or a folder of them, and no pictures."""
    if source.is_dir():
        return not any(p.suffix.lower() in PICTURES for p in source.rglob("*"))
    if source.suffix == ".npz" and source.is_file():
        with open_numpy(source) as found:
            return "offsets" not in found
    return source.name.lower().endswith(SCANS)


def _pictures(
    source: str, settings: Preparation, held_out: Sequence[str], head: Head | None, first: int
) -> Iterator[Made]:
    """Magnitudes, without those that show next to nothing; every second one is seen by the coils of `head`."""
    labels = _volumes(Path(source))
    pictures = [
        (name, picture[0])
        for i, (name, picture) in enumerate(read_images(source, 1))
        if (_stem(name) if labels is None else str(labels[i])) not in held_out and picture.float().mean() > 255 * EMPTY
    ]
    pictures = shuffled(pictures, settings.seed)[: settings.limit or None]
    for index, (name, picture) in enumerate(pictures, first):
        yield name, lambda picture=picture, index=index, name=name: _measured(picture, name, index, settings, head)


def _measured(picture: Tensor, name: str, index: int, settings: Preparation, head: Head | None) -> Slice:
    """Simulated k-space of a uint8 picture (H, W)."""
    rng = np.random.default_rng((settings.seed, 8, index))
    magnitude = square(picture, settings.size).float() / 255
    if rng.random() < 0.5:
        magnitude = magnitude.T
    if rng.random() < 0.5:
        magnitude = magnitude.flip(-1)
    size = (settings.size, settings.size)
    maps = head.maps(size, rng) if head is not None and index % 2 else birdcage(settings.coils, size, rng)
    # Noise is stated relative to the calibration region: the same for dark pictures and bright ones.
    scale = calibration_scale(simulate(magnitude, maps, 0.0, rng)[0])
    kspace, _ = simulate(magnitude / scale, maps, settings.sigma, rng)
    whole = settings.target == "clean" or settings.acceleration <= 1
    mask = torch.ones(size) if whole else _mask(settings, rng)
    return Slice(name, mask * kspace, mask, maps, settings.sigma)


def _mask(settings: Preparation, rng: np.random.Generator) -> Tensor:
    """A mask (size, size) of one of the kinds."""
    kind = settings.kinds[int(rng.integers(len(settings.kinds)))]
    size = (settings.size, settings.size)
    return make_mask(kind, size, settings.acceleration, settings.acs, int(rng.integers(2**31)))


def square(picture: Tensor, size: int) -> Tensor:
    """A magnitude picture as a square: cropped to what it shows where that fits, else made smaller.

    Args:
        picture: (H, W) uint8.
        size: Side in pixels.

    Returns:
        (size, size) uint8.
    """
    shown = picture > 0.04 * float(picture.max())
    spans = []
    for axis in (1, 0):
        at = shown.any(axis).nonzero().flatten()
        spans.append((int(at[0]), int(at[-1]) + 1))
    if any(high - low > size for low, high in spans):
        longest = max(picture.shape)
        height, width = (max(round(n * size / longest), 1) for n in picture.shape)
        small = Image.fromarray(picture.numpy()).resize((width, height), Image.Resampling.LANCZOS)
        picture, spans = torch.from_numpy(np.array(small)), [(0, height), (0, width)]
    out = torch.zeros(size, size, dtype=picture.dtype)
    cut = picture[slice(*spans[0]), slice(*spans[1])]
    top, left = ((size - n) // 2 for n in cut.shape)
    out[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return out


def _volumes(pack: Path) -> np.ndarray | None:
    """The labels of a pack, which name the volume of each slice."""
    if pack.suffix != ".npz" or not pack.is_file():
        return None
    with open_numpy(pack) as found:
        return load(found["label"], f"label of {pack}", LIMIT, LABELS) if "label" in found else None


def _stem(name: str | Path) -> str:
    """The name of a file without its folder and its endings."""
    return Path(name).name.split(".")[0]


def _refuse_unknown(held_out: Sequence[str], sources: Sequence[Path]) -> None:
    """Raise where a volume is to be left out that is not there: it may be one that is, spelled otherwise."""
    known: set[str] = set()
    for source in sources:
        labels, files = _volumes(source), source.rglob("*") if source.is_dir() else [source]
        own = {_stem(p) for p in files if p.name.lower().endswith((*SCANS, *PICTURES))}
        if labels is None and not own:
            return  # shards or a data set of a hub, which name their pictures only when they are read
        known |= own if labels is None else set(map(str, labels))
    missing = [name for name in held_out if name not in known]
    if missing:
        near = suggestion(missing[0], difflib.get_close_matches(missing[0], known, n=5, cutoff=0) or known)
        raise AmbientSolveError(f"There is no volume {missing[0]!r} to hold out. {near}")


def _scans(folder: Path, settings: Preparation, held_out: Sequence[str], axes: str | None) -> Iterator[Made]:
    """The slices of all k-space in `folder`."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    paths = [p for p in paths if p.name.lower().endswith(SCANS)]
    if not paths:
        raise AmbientSolveError(f"The folder {folder} holds no scan ({', '.join(SCANS)}) and no picture.")
    for path in paths:
        if _stem(path) not in held_out:
            scan = read_scan(path, axes=axes, seed=settings.seed)
            for i in range(len(scan)):
                try:
                    slice_ = scan.slice(i)
                except AmbientSolveError as error:
                    print(f"Left out, slice {i}: {error}", file=sys.stderr)
                    continue
                name = f"{path.name if path == folder else path.relative_to(folder)}/{i}"
                yield name, lambda slice_=slice_, name=name: _squared(slice_, name, settings)


def _squared(scan: Scan, name: str, settings: Preparation) -> Slice:
    """One slice of a scan in a square: the oversampled readout cropped, then the middle of k-space, or zeros round it.

    Nothing is interpolated: what is stored was measured, and a smaller square is a lower resolution. Simulated k-space
    is undersampled here; what a scanner measured stays as it is.
    """
    kspace, mask = scan.kspace[0], scan.mask[0]
    height, width = mask.shape
    if height >= 1.5 * width and bool((mask == mask[:1]).all()):
        kspace = torch.from_numpy(cropped_readout(kspace.numpy(), width))
        mask = mask[:width]
    kspace, mask = (_central(t, settings.size) for t in (kspace, mask))
    if scan.simulated and settings.target != "clean" and settings.acceleration > 1:
        rng = np.random.default_rng((settings.seed, 9, *name.encode()))
        mask = _mask(settings, rng)
    p = problem(replace(scan, kspace=(mask * kspace)[None], mask=mask[None], acs=0, reference=None), settings.coils)
    for doubt in p.doubts:
        print(f"{shown(name)}: {doubt}.", file=sys.stderr)
    # A slice that is smaller than the square is surrounded by zeros, which were not measured.
    return Slice(name, torch.complex(p.y[0, 0], p.y[0, 1]), p.mask, p.maps, p.sigma)


def _central(t: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` entries of (..., H, W), zeros where there are none; the middle stays in the middle."""
    for axis in (-2, -1):
        n = t.shape[axis]
        before = n // 2 - size // 2
        if before >= 0:
            t = t.narrow(axis, before, min(size, n - before))
        room = [0, 0, 0, 0]
        room[0 if axis == -1 else 2] = max(-before, 0)
        room[1 if axis == -1 else 3] = size - t.shape[axis] - max(-before, 0)
        t = torch.nn.functional.pad(t, room)
    return t
