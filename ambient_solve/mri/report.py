"""What `ambient-solve mri` writes: a report as one picture, an .npz with all numbers, a NIfTI volume."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures.sheet import Row, Tile, contact_sheet, picture_tile, std_tile
from ambient_solve.mri.classical import zero_filled
from ambient_solve.mri.problem import NOTICE
from ambient_solve.mri.reconstruction import Reconstruction, middle

WINDOW = 0.998
"""The quantile of the magnitude that is white, in all magnitudes of a report alike."""
TIMES = 5
"""Errors are shown so many times brighter."""
COLUMNS = 4
"""Columns of the report."""
LETTERS = 20
"""Height of the letters of what is doubtful, in pixels."""


def report(made: Reconstruction) -> Image.Image:
    """All there is to see of one slice: what was measured, what was made of it, and how sure that is."""
    p, reference = made.problem, made.problem.scan.reference
    filled = p.scale * zero_filled(p)[0].norm(dim=0)
    top = float((made.magnitude if reference is None else reference[0]).flatten().quantile(WINDOW))
    grey = lambda x, caption: picture_tile((x / max(top, 1e-30))[None], caption)  # noqa: E731
    pictures = [
        grey(filled, "zero-filled"),
        grey(made.magnitude, "mean" if len(made.samples) > 1 else "reconstruction"),
    ]
    if made.std is not None:
        std = std_tile(made.std[None])
        pictures += [
            grey(made.samples[0].norm(dim=0), "one sample"),
            Tile(std.picture, "", ("std 0", std.bar[1])),
        ]
    if reference is not None:
        pictures += [grey(reference[0], "reference")]
        error = TIMES * (middle(made.magnitude, tuple(reference.shape[1:])) - reference[0]).abs()
        pictures += [grey(error, f"error x{TIMES}, NRMSE {made.metrics['nrmse']:.3f}")]
    measured = [
        Tile(cyclic(torch.atan2(made.mean[1], made.mean[0]), made.magnitude / max(top, 1e-30)), "phase, -pi to pi"),
        picture_tile(p.mask[None], f"mask, R = {made.settings['R']:.2f}, ACS {p.scan.acs}"),
        picture_tile(log_kspace(p.y)[None], "k-space, log of all coils"),
        picture_tile(montage(p.maps.abs())[None], f"maps of {len(p.maps)} coils, magnitude"),
    ]
    how = "simulated k-space" if p.scan.simulated else "k-space"
    name = made.settings.get("algorithm", made.settings["method"])
    noise = f"noise {p.scale * p.sigma:.3g} ({p.level.source})"
    misfit = f"{name}; misfit {made.chi2:.2f} (about 1 is right), {noise}, white is {top:.3g}"
    rows = [*_rows("reconstruction", misfit, pictures), *_rows("measurement", NOTICE, measured)]
    sheet = contact_sheet(f"{Path(p.scan.source).name} ({how})", [""] * COLUMNS, rows)
    return with_lines(sheet, [f"Doubtful: {doubt}." for doubt in made.doubts])


def with_lines(sheet: Image.Image, lines: Sequence[str]) -> Image.Image:
    """A picture with lines of red text below it.

    Args:
        sheet: The picture.
        lines: The text; lines that are too long are broken.

    Returns:
        A higher picture; `sheet` itself where there are no lines.
    """
    if not lines:
        return sheet
    font = ImageFont.load_default(size=LETTERS)
    broken = [row for line in lines for row in textwrap.wrap(line, max(int(sheet.width / (0.52 * LETTERS)), 20))]
    pitch = round(1.5 * LETTERS)
    out = Image.new("RGB", (sheet.width, sheet.height + pitch * (len(broken) + 1)), "white")
    out.paste(sheet)
    draw = ImageDraw.Draw(out)
    for i, row in enumerate(broken):
        draw.text((pitch, sheet.height + pitch * i), row, "#a01010", font)
    return out


def cyclic(phase: Tensor, brightness: Tensor) -> np.ndarray:
    """Colours of a phase: pi and -pi have the same one.

    Args:
        phase: (H, W), in radians.
        brightness: (H, W), 0 to 1; 0 is black.

    Returns:
        (H, W, 3) uint8.
    """
    hue = torch.stack([(phase - shift).cos() for shift in (0.0, 2.0944, 4.1888)], -1) / 2 + 0.5
    return (255 * hue * brightness.clamp(0, 1)[..., None].sqrt()).round().byte().numpy()


def log_kspace(y: Tensor) -> Tensor:
    """Five decades of the power of all coils, (H, W) in [0, 1], for (1, 2, coils, H, W)."""
    power = y[0].square().sum((0, 1))
    return (1 + torch.log10(power / power.max().clamp_min(1e-30) + 1e-10) / 10).clamp(0, 1)


def montage(maps: Tensor) -> Tensor:
    """The maps (coils, H, W) beside and below each other, in about a square."""
    columns = int(np.ceil(np.sqrt(len(maps))))
    filler = maps.new_zeros(-len(maps) % columns, *maps.shape[1:])
    tiles = torch.cat([maps, filler]).unflatten(0, (-1, columns))
    return torch.cat([torch.cat(list(row), -1) for row in tiles], -2)


def save_slice(made: Reconstruction, folder: Path) -> None:
    """Write report.png, reconstruction.npz and, last, settings.json, which marks the slice as finished.

    Args:
        made: The reconstruction.
        folder: Where to; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").unlink(missing_ok=True)
    record = {**made.settings, "chi2": made.chi2, "seconds": made.seconds, "metrics": made.metrics}
    text = json.dumps(record, indent=2, default=str)
    info = PngInfo()
    info.add_text("ambient_solve", text)
    report(made).save(folder / "report.png", pnginfo=info)
    p = made.problem
    arrays = {
        "mean": _complex(made.mean),
        "samples": _complex(made.samples.movedim(1, 0)),
        "zero_filled": _complex(p.scale * zero_filled(p)[0]),
        "maps": p.maps.numpy(),
        "mask": p.mask.numpy().astype(np.uint8),
        "sigma": np.float32(p.scale * p.sigma),
        "chi2": np.float32(made.chi2),
        "simulated_kspace": np.bool_(p.scan.simulated),
        "notice": np.str_(NOTICE),
    }
    arrays |= {} if made.std is None else {"std": made.std.numpy()}
    arrays |= {} if p.scan.reference is None else {"reference": p.scan.reference[0].numpy()}
    np.savez(folder / "reconstruction.npz", **arrays)
    (folder / "settings.json").write_text(text + "\n")


def save_nifti(
    slices: Sequence[np.ndarray], voxel: tuple[float, float, float] | None, simulated: bool, path: Path
) -> None:
    """Write magnitudes as a NIfTI volume. The position of the patient is not known: the axes are those of the arrays.

    Args:
        slices: Magnitudes, (H, W) each.
        voxel: Height, width and slice distance in mm; 1 each by default.
        simulated: Whether the k-space was simulated, which the header then says.
        path: The file to write.

    Raises:
        AmbientSolveError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise AmbientSolveError("NIfTI files need nibabel: pip install 'ambient-solve[mri]'.") from None
    down, across, through = voxel or (1.0, 1.0, 1.0)
    volume = np.rot90(np.stack(slices, -1).astype(np.float32), -1)
    image = nibabel.Nifti1Image(volume, np.diag([across, down, through, 1.0]))
    image.header["descrip"] = f"ambient_solve{', simulated k-space' if simulated else ''}; not for diagnosis".encode()
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _rows(title: str, note: str, tiles: Sequence[Tile]) -> list[Row]:
    """The tiles in rows of COLUMNS, the last one filled up with white."""
    blank = Tile(np.full((8, 8, 3), 255, np.uint8))
    full = [*tiles, *[blank] * (-len(tiles) % COLUMNS)]
    parts = [full[i : i + COLUMNS] for i in range(0, len(full), COLUMNS)]
    return [Row(title if i == 0 else "", note if i == 0 else "", part) for i, part in enumerate(parts)]


def _complex(x: Tensor) -> np.ndarray:
    """(2, ...) real to (...) complex64."""
    return torch.complex(x[0], x[1]).numpy()
