"""The gallery of the documentation: before, after, one sample and the standard deviation, for each task.

    pip install ".[docs]"
    python examples/gallery.py --out docs/gallery

Pictures that scikit-image ships, the embedded priors, minutes on one core. The default algorithm, but `proximal` for
noise and for the scan, and fewer steps of `daps` for JPEG. `--only jpeg mri` draws these alone, `--device cuda` uses a
GPU.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
from torch import Tensor

from ambient_solve import Restoration, Solver, load_prior, operators

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

SIDE = 128
SAMPLES = 8
SIZE = (3, SIDE, SIDE)
MRI_NOISE = 0.02
Made = tuple[Tensor, Restoration]
COLUMNS = ("before", "after (posterior mean)", "one sample", "standard deviation")


def photograph(name: str, top: int = 0, left: int = 0, side: int = 256) -> Tensor:
    """A square of a photograph of scikit-image, averaged down to (1, 3, SIDE, SIDE) in [0, 1]."""
    x = torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1)[None, :, top : top + side, left : left + side]
    return torch.nn.functional.interpolate(x / 255, size=(SIDE, SIDE), mode="area")


def restore(x: Tensor, op: torch.nn.Module, device: str, algorithm: str = "auto", **knobs: int) -> Made:
    """A measurement of `x` as a picture (1, 3, SIDE, SIDE), and its restoration."""
    torch.manual_seed(0)
    y = op.A(x) if isinstance(op, operators.Jpeg) else op(x)  # a file has no noise but its rounding
    solver = Solver(load_prior("photos", device=device), algorithm, **knobs)
    made = solver.solve(y.to(device), op.to(device), n_samples=SAMPLES)
    return torch.nn.functional.interpolate(y.cpu(), size=(SIDE, SIDE), mode="nearest"), made


def coil_maps(side: int, coils: int = 4) -> Tensor:
    """Smooth complex maps (coils, side, side) of coils around the picture, `sum |S|^2 = 1`."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    angles = 2 * torch.pi * torch.arange(coils) / coils
    near = [torch.exp(-((down - a.sin()) ** 2 + (across - a.cos()) ** 2) / 2) for a in angles]
    maps = torch.stack([torch.polar(m, a + 0.5 * across) for m, a in zip(near, angles, strict=True)])
    return maps / maps.abs().square().sum(0).sqrt()


def scan(device: str) -> Made:
    """The phantom of Shepp and Logan, its k-space simulated, one line in four kept: magnitudes."""
    phantom = torch.tensor(skimage.data.shepp_logan_phantom()).float()[None, None]
    magnitude = torch.nn.functional.interpolate(phantom, size=(SIDE, SIDE), mode="area")[0, 0]
    x = torch.stack([magnitude, 0.1 * magnitude])[None]
    x = 0.5 * x / x.square().sum(1).mean().sqrt()
    mask = operators.make_mask("random", (SIDE, SIDE), acceleration=4, acs=12, seed=0)
    op = operators.MultiCoil(coil_maps(SIDE), mask, MRI_NOISE)
    torch.manual_seed(0)
    y = op(x)
    prior = load_prior("brain-mri", device=device)
    made = Solver(prior, "proximal").solve(y.to(device), op.to(device), n_samples=SAMPLES)
    return op.to("cpu").A_adjoint(y), made


TASKS: dict[str, Callable[[str], Made]] = {
    "denoise": lambda device: restore(
        photograph("chelsea", 20, 100), operators.denoise(SIZE, sigma=0.1), device, "proximal"
    ),
    "inpaint": lambda device: restore(photograph("astronaut", 0, 96), operators.inpaint_random(SIZE, 0.7), device),
    "deblur": lambda device: restore(photograph("coffee", 40, 170), operators.motion_blur(SIZE, 15), device),
    "super-resolution": lambda device: restore(
        photograph("astronaut", 0, 96), operators.super_resolution(SIZE, 2), device
    ),
    "jpeg": lambda device: restore(
        photograph("coffee", 40, 170),
        operators.jpeg(SIZE, 10),
        device,
        "daps",
        steps=20,
        ode_steps=1,
        langevin_steps=20,
    ),
    "mri": scan,
}


def picture(x: Tensor) -> np.ndarray:
    """(H, W, 3) or, for a complex picture, the magnitude (H, W) over its maximum."""
    x = x.cpu().float()
    if len(x) == 2:
        magnitude = x.norm(dim=0)
        return (magnitude / magnitude.max()).numpy()
    return x.clamp(0, 1).permute(1, 2, 0).numpy()


def draw(before: Tensor, made: Restoration, path: Path) -> None:
    """Four pictures side by side."""
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
    shown = (picture(before[0]), picture(made.mean[0]), picture(made.samples[0, 0]))
    for ax, title, x in zip(axes, COLUMNS, shown, strict=False):
        ax.imshow(x, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10)
    std = made.std[0].mean(0).cpu()
    drawn = axes[3].imshow(std, cmap="inferno", vmin=0, vmax=float(std.flatten().quantile(0.995)))
    axes[3].set_title(COLUMNS[3], fontsize=10)
    figure.colorbar(drawn, ax=axes[3], fraction=0.046)
    for ax in axes:
        ax.axis("off")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), help="folder of the pictures")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS), help="these tasks alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        before, made = TASKS[name](args.device)
        draw(before, made, args.out / f"{name}.jpg")
        algorithm = made.settings["algorithm"]
        print(f"{name}: {algorithm}, misfit {made.chi2.mean():.2f}, {made.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
