"""Views of a reconstructed slice: arrays in, pictures and sentences out. Knows neither gradio nor a solver.

Magnitudes share one window: black at `level - window / 2`, white at `level + window / 2`; 1 is the white of the start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ambient_solve.app import panels
from ambient_solve.figures.sheet import HEAT
from ambient_solve.verdict.judge import FIT

if TYPE_CHECKING:
    from ambient_solve.mri.reconstruction import Reconstruction

METHODS = {
    "prior": "A learned prior, with its standard deviation",
    "l1-wavelet": "Sparse wavelets (L1)",
    "tv": "Total variation",
    "cg-sense": "CG-SENSE",
    "zero-filled": "Zero-filled",
}
"""Words of the page for each method."""
MAGNITUDES = {"filled": "Zero-filled", "mean": "Reconstruction", "sample": "One sample", "reference": "Reference"}
"""Titles of the panels that show a magnitude."""
MAPS = {"std": "Standard deviation of the samples", "error": "Error of the reconstruction"}
"""Titles of the panels that show a map with a colour bar."""
MEASURED = {"phase": "Phase", "mask": "Sampling mask", "kspace": "k-space", "coils": "Coil maps"}
"""Titles of the panels that show what was measured."""
PANELS = {**MAGNITUDES, **MAPS, **MEASURED}
"""Titles of all panels."""
ALT = {
    "filled": "Picture of what was sampled, with zeros for the rest",
    "mean": "Magnitude of the reconstruction: of one picture, or of the mean of the samples",
    "sample": "Magnitude of one posterior sample",
    "reference": "Magnitude of the reference",
    "std": "Map of the standard deviation of the samples at each pixel, with a colour bar below",
    "error": "Map of the distance from the reference at each pixel, with a colour bar below",
    "phase": "Phase of the reconstruction in cyclic colours, dark where there is no signal",
    "mask": "Sampled entries of k-space in white",
    "kspace": "Power of k-space over all coils on a logarithmic scale",
    "coils": "Magnitude of the estimated coil maps",
}
"""Text of each panel for screen readers."""
ARRAYS = ("phase", "mask", "kspace", "coils", "all")
"""Names of the arrays of a `Slice` that always exist."""
SIDE = 384
"""Longer side up to which panels are enlarged, in pixels."""


@dataclass(frozen=True)
class Look:
    """How a slice is looked at: the window, the zoom round (row, column), upside down, one coil (0: all)."""

    window: float = 1.0
    level: float = 0.5
    zoom: float = 1.0
    row: int = 0
    column: int = 0
    flip: bool = False
    coil: int = 0


@dataclass(frozen=True)
class ShownSlice:
    """What is shown of one slice.

    Attributes:
        magnitudes: By the names of MAGNITUDES, (H, W), 1 is the white of the start.
        std: (H, W) in these units, None with one sample.
        phase: (H, W, 3), mask: (H, W), kspace: (H, W), coils: (coils, H, W), all: the coils side by side; uint8.
        facts: What is said about it.
    """

    magnitudes: Mapping[str, np.ndarray]
    std: np.ndarray | None
    phase: np.ndarray
    mask: np.ndarray
    kspace: np.ndarray
    coils: np.ndarray
    all: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.mask.shape


def stored_slice(made: Reconstruction) -> ShownSlice:
    """What the page keeps of a reconstruction, at a small part of its size."""
    import torch

    from ambient_solve.mri.classical import zero_filled
    from ambient_solve.mri.report import WINDOW, cyclic, log_kspace, montage

    p, reference = made.problem, made.problem.scan.reference
    top = max(float((made.magnitude if reference is None else reference[0]).flatten().quantile(WINDOW)), 1e-30)
    magnitudes = {"filled": p.scale * zero_filled(p)[0].norm(dim=0), "mean": made.magnitude}
    if len(made.samples) > 1:
        magnitudes["sample"] = made.samples[0].norm(dim=0)
    if reference is not None:
        magnitudes["reference"] = _framed(reference[0], p.mask.shape)
    maps, settings = p.maps.abs(), made.settings
    maps = (255 * maps / maps.max().clamp_min(1e-30)).round().byte()
    return ShownSlice(
        magnitudes={name: (x / top).numpy().astype(np.float16) for name, x in magnitudes.items()},
        std=None if made.std is None else (made.std / top).numpy().astype(np.float16),
        phase=cyclic(torch.atan2(made.mean[1], made.mean[0]), made.magnitude / top),
        mask=p.mask.numpy().astype(np.uint8),
        kspace=(255 * log_kspace(p.y)).round().numpy().astype(np.uint8),
        coils=maps.numpy(),
        all=montage(maps[:, ::2, ::2]).numpy(),
        facts={
            "white": top,
            "R": settings["R"],
            "acs": p.scan.acs,
            "chi2": made.chi2,
            "samples": len(made.samples),
            "method": settings.get("algorithm", settings["method"]),
            "simulated": p.scan.simulated,
            "notes": list(p.scan.notes),
            "metrics": dict(made.metrics),
            "doubts": list(p.doubts),
            "compared": None if reference is None else list(reference.shape[1:]),
            "source": p.scan.source,
            "seconds": made.seconds,
        },
    )


def store(seen: ShownSlice, path: Path, packed: bool = False) -> None:
    """Write a slice to an .npz file.

    Args:
        seen: The slice.
        path: The file; its folder is made if need be.
        packed: Whether to compress it.
    """
    arrays = {f"magnitude-{name}": x for name, x in seen.magnitudes.items()}
    arrays |= {name: getattr(seen, name) for name in ARRAYS} | {"facts": np.array(json.dumps(dict(seen.facts)))}
    arrays |= {} if seen.std is None else {"std": seen.std}
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if packed else np.savez)(path, **arrays)


def read_stored(path: Path) -> ShownSlice:
    """What `store` wrote."""
    with np.load(path, allow_pickle=False) as found:
        arrays = dict(found)
    facts, head = json.loads(str(arrays.pop("facts"))), "magnitude-"
    magnitudes = {name.removeprefix(head): arrays.pop(name) for name in list(arrays) if name.startswith(head)}
    return ShownSlice(magnitudes, arrays.pop("std", None), **arrays, facts=facts)


def draw(seen: ShownSlice, look: Look) -> dict[str, Image.Image | None]:
    """Draw every panel of a slice.

    Args:
        seen: The slice.
        look: Window, level, zoom and place.

    Returns:
        Every panel by its name, None where there is nothing to show.
    """
    found: dict[str, Image.Image | None] = {name: None for name in PANELS}
    for name, x in seen.magnitudes.items():
        found[name] = magnitude(x, look)
    error = None
    if "reference" in seen.magnitudes:
        mean, reference = (seen.magnitudes[name].astype(np.float32) for name in ("mean", "reference"))
        error = np.abs(mean - reference) * _framed(np.ones(seen.facts.get("compared") or mean.shape), mean.shape)
    # One scale for both: how far the samples differ is to be compared with how far they are wrong.
    both = [x.astype(np.float32) for x in (seen.std, error) if x is not None]
    ceiling = max((float(np.quantile(x, 0.995)) for x in both), default=0.0)
    for name, x in (("std", seen.std), ("error", error)):
        if x is not None:
            found[name] = heat(x.astype(np.float32), ceiling, look)
    found["phase"] = _enlarged(_part(seen.phase, look))
    found["mask"] = _enlarged(_grey(255 * seen.mask))
    found["kspace"] = _enlarged(_grey(seen.kspace))
    one = seen.all if not look.coil else _part(seen.coils[min(look.coil, len(seen.coils)) - 1], look)
    found["coils"] = _enlarged(_grey(one))
    return found


def magnitude(x: np.ndarray, look: Look) -> Image.Image:
    """A magnitude under the window of `look`.

    Args:
        x: The magnitude (H, W); 1 is the white of the start.
        look: Window, level, zoom and place.

    Returns:
        The picture.
    """
    low = look.level - look.window / 2
    x = (_part(x, look).astype(np.float32) - low) / max(look.window, 1e-3)
    return _enlarged(_grey((255 * np.clip(x, 0, 1)).round()))


def heat(x: np.ndarray, top: float, look: Look) -> Image.Image:
    """A map of errors or of standard deviations, with its colour bar below it.

    Args:
        x: (H, W), as a fraction of white.
        top: Value of the last colour.
        look: What part is shown, and how.

    Returns:
        The picture.
    """
    colours = panels.coloured(np.clip(_part(x, look) / max(top, 1e-6), 0, 1), HEAT)
    return panels.drawn(colours, ("0", f"{100 * top:.1f} % of white"), HEAT, top, SIDE).image


def place(name: str, x: float, y: float, seen: ShownSlice, look: Look) -> tuple[int, int] | None:
    """The pixel of the slice under a point of a drawn panel.

    Args:
        name: Name of the panel.
        x: From its left, in pixels.
        y: From its top, in pixels.
        seen: The slice.
        look: What part is shown, and how.

    Returns:
        (row, column); None beside the slice, and on panels without pixels of it.
    """
    if name in ("mask", "kspace") or (name == "coils" and not look.coil):
        return None
    top, left, height, width = _box(seen.size, look)
    scale = _scale(height, width)
    row, column = int(y // scale), int(x // scale)
    if not (0 <= row < height and 0 <= column < width):
        return None
    row, column = top + row, left + column
    return (seen.size[0] - 1 - row if look.flip else row), column


def captions(seen: ShownSlice) -> dict[str, str]:
    """The title of each panel."""
    facts, found = seen.facts, dict(PANELS)
    found["mean"] = f"Mean of {facts['samples']} samples" if facts["samples"] > 1 else "Reconstruction"
    found["mask"] = f"Mask, R = {facts['R']:.2f}, {facts['acs']} calibration lines"
    found["kspace"] = "Simulated k-space, log" if facts["simulated"] else "k-space, log"
    found["coils"] = f"Maps of {len(seen.coils)} coil{'s' * (len(seen.coils) > 1)}"
    if "nrmse" in facts["metrics"]:
        found["error"] = f"Error, NRMSE {facts['metrics']['nrmse']:.3f}"
    return found


def words(seen: ShownSlice, index: int) -> str:
    """Which slice this is, how well it explains the scan, and how near it comes to the reference.

    Args:
        seen: The slice.
        index: Its number, from 0.

    Returns:
        Sentences in markdown.
    """
    facts = seen.facts
    method = METHODS.get(facts["method"], facts["method"])
    said = f"**{facts['source']}, slice {index}**, {method}, R = {facts['R']:.2f}. "
    said += f"It explains the scan to **{facts['chi2'] ** 0.5:.2f} times** its noise (1 is right). "
    said += misfit_words(facts["chi2"])
    said += "".join(f" {doubt[:1].upper()}{doubt[1:]}." for doubt in facts.get("doubts", ()))
    if facts["simulated"]:
        said += " **Simulated k-space**: this file holds a picture, not what a scanner measured."
    if facts["metrics"]:
        m = facts["metrics"]
        said += (
            f" Against the reference: PSNR {m['psnr']:.1f} dB, SSIM {m['ssim']:.3f}, NRMSE {m['nrmse']:.3f} "
            "(magnitude; the range is the maximum of the reference, as in fastMRI)."
        )
    return said


def misfit_words(chi2: float) -> str:
    """What a misfit that is far from 1 means."""
    if chi2 > FIT[1]:
        return "That is too much: part of the scan is left unexplained, by this method or by the coil maps."
    if chi2 < FIT[0]:
        return "That is less than the noise: noise was taken for signal, so look for grain in the picture."
    return ""


def magnitude_words(seen: ShownSlice, row: int, column: int) -> str:
    """The values at one pixel, in percent of the white of the start.

    Args:
        seen: The slice.
        row: From 0, downwards.
        column: From 0, to the right.

    Returns:
        A sentence in markdown.
    """
    names = captions(seen)
    values = [f"{names[n].lower()} {100 * float(x[row, column]):.1f} %" for n, x in seen.magnitudes.items()]
    if seen.std is not None:
        values.append(f"standard deviation {100 * float(seen.std[row, column]):.1f} %")
    return f"**Column {column}, row {row}** (100 % is white at the start): {', '.join(values)}."


def _framed(x: Any, size: tuple[int, int]) -> Any:
    """A reference of the middle of the picture alone, in a frame of zeros of the size of the picture."""
    top, left = ((n - side) // 2 for n, side in zip(size, x.shape, strict=True))
    out = x.new_zeros(size) if hasattr(x, "new_zeros") else np.zeros(size, x.dtype)
    out[top : top + x.shape[0], left : left + x.shape[1]] = x
    return out


def _grey(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.astype(np.uint8)[..., None].repeat(3, -1))


def _box(size: tuple[int, int], look: Look) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part that is zoomed into, as it is drawn."""
    row = size[0] - 1 - look.row if look.flip else look.row
    extent = [max(4, min(n, round(n / max(look.zoom, 1.0)))) for n in size]
    start = [min(max(at - n // 2, 0), whole - n) for at, n, whole in zip((row, look.column), extent, size, strict=True)]
    return (*start, *extent)


def _part(x: np.ndarray, look: Look) -> np.ndarray:
    top, left, height, width = _box(x.shape[:2], look)
    return (x[::-1] if look.flip else x)[top : top + height, left : left + width]


def _scale(height: int, width: int) -> int:
    return max(1, SIDE // max(height, width))


def _enlarged(colours: np.ndarray) -> Image.Image:
    scale = _scale(*colours.shape[:2])
    return Image.fromarray(np.ascontiguousarray(colours.repeat(scale, 0).repeat(scale, 1)))
