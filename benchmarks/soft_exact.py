"""How many steps a soft process takes on data of the power of faces, where everything is known: beside additive noise.

    python benchmarks/soft_exact.py --data DATA

The data are Gaussian, with the variance that faces at 32 px have in each frequency; the denoiser is exact, and so is
the variance of what a sampler makes, which is a recursion by frequency. The number is the Wasserstein distance to the
data over the deviation of the data. All runs start from what is known without the data: noise and, for the soft
process, the law of the mean color. Network calls are counted, of which Heun's method takes two at each level but the
last.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ambient_solve.data.images import read_images
from ambient_solve.process import GaussianBlur, SoftSettings, karras, log_linear, noise_shares

CALLS = (5, 10, 25, 50, 100)
LOW, HIGH = 0.01, 80.0
F64 = torch.float64
PATHS = {
    "blur to 16 px, noise to .5": {"strongest": 16.0, "curve": 2.0, "highest": 0.5},
    "blur to 10 px, noise to 4": {"strongest": 10.0, "curve": 2.0, "highest": 4.0},
}


def gains_of(settings: SoftSettings | None, level: float) -> Tensor | float:
    """The gains of a level; those of additive noise are 1."""
    like = torch.zeros(1, 1, 32, 32, dtype=F64)
    return 1.0 if settings is None else GaussianBlur().gains(like, settings.strength(level))


def relative_error(
    power: Tensor, levels: Sequence[float], sampler: str, settings: SoftSettings | None, heun: bool = False
) -> float:
    """The Wasserstein distance of samples to the data, over the deviation of the data."""
    start = levels[0] ** 2 * torch.ones_like(power)
    if settings is not None:  # the law of the mean is given
        start[0, 0] += power[0, 0]
    variance = start

    def shrink(t: float) -> Tensor:
        g = gains_of(settings, t)
        return g * power / (g**2 * power + t**2)

    for t, after in zip(levels, levels[1:], strict=False):
        kept, fresh = noise_shares(sampler, t, after)
        g, g_next = gains_of(settings, t), gains_of(settings, after)
        if sampler == "bridge":  # the exact reverse kernel, by frequency
            kept = (after / t) ** 2 * (g / g_next).nan_to_num() if after > 0 else 0.0
            fresh = (
                after * (1 - (g / g_next).nan_to_num() ** 2 * (after / t) ** 2).clamp_min(0).sqrt() if after > 0 else 0
            )
        slope = g_next * shrink(t) + kept * (1 - g * shrink(t))
        if heun and after > 0:
            one = (1 - shrink(t)) / t
            two = (1 - shrink(after)) * slope / after
            slope = 1 + (after - t) * (one + two) / 2
        variance = slope**2 * variance + fresh**2
    return float((variance.sqrt() - power.sqrt()).norm() / power.sqrt().norm())


def table(power: Tensor, pictures: Tensor) -> str:
    """Markdown: a row for each process, grid and sampler."""
    rows = {}
    for name, path in PATHS.items():
        settings = SoftSettings(lowest=LOW, **path).fitted(pictures)
        grids = {"equal distances": settings.levels, "geometric": log_linear}
        for grid, make in grids.items():
            for sampler in (
                ("deterministic", "momentum", "bridge", "naive") if grid == "geometric" else ("deterministic",)
            ):
                levels = [make(n, LOW, settings.highest) for n in CALLS]
                rows[f"soft, {name} | {grid} | {sampler}"] = [
                    relative_error(power, own, sampler, settings) for own in levels
                ]
    for grid, make in {"Karras": karras, "geometric": log_linear}.items():
        levels = [make(n, LOW, HIGH) for n in CALLS]
        rows[f"additive, noise to 80 | {grid} | deterministic"] = [
            relative_error(power, own, "deterministic", None) for own in levels
        ]
        levels = [make((n + 1) // 2, LOW, HIGH) for n in CALLS]
        rows[f"additive, noise to 80 | {grid} | Heun"] = [
            relative_error(power, own, "deterministic", None, heun=True) for own in levels
        ]
    head = f"| process | grid | sampler | {' | '.join(map(str, CALLS))} |\n{'|---' * (3 + len(CALLS))}|"
    return "\n".join([head, *(f"| {name} | {' | '.join(f'{v:.3f}' for v in found)} |" for name, found in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with faces/")
    args = parser.parse_args()
    found = [p for i, (_, p) in enumerate(read_images(args.data / "faces" / "utkface64.npz", 3, 2)) if i % 9 == 0]
    pictures = torch.stack(found).double() / 127.5 - 1
    around = pictures - pictures.mean((0, 2, 3), keepdim=True)
    power = GaussianBlur().analyze(around).abs().square().mean((0, 1))
    print(table(power, pictures))


if __name__ == "__main__":
    main()
