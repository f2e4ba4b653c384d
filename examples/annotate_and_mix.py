"""A few clean pictures and many blurred ones: find out at which noise levels the blurred ones help, and use them there.

    python examples/annotate_and_mix.py [FOLDER]

Ambient Diffusion Omni (arXiv 2506.10038) at toy size. Three priors are trained: on the clean pictures alone, on all of
them as if they were clean, and on all of them at the levels that trainers/annotate.py admits. After 150 steps no prior
is trained: this shows how the tools fit together, not how much is gained.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from skimage.data import astronaut, coffee

from ambient_solve import load_prior
from ambient_solve.data.corruption import Corruption, write_corrupted
from ambient_solve.data.damages import GaussianBlur

TRAINERS, SIDE = Path(__file__).resolve().parents[1] / "trainers", 16
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
TRAINING = {
    "network": {"channels": 1, "widths": [16, 32], "embedding": 64, "sigma_min": 0.02, "sigma_max": 10.0},
    "crop": SIDE,
    "batch": 32,
    "images": 4800,
    "lr": 2e-3,
    "level_std": 1.4,
    "ema": {"half_life": 1000},
    "precision": "fp32",
    "tracker": "none",
    "validate_every": 0,
}


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pieces of two photographs, (n, 1, SIDE, SIDE) uint8: of their upper parts to learn from, of their lower."""
    upper, lower = [], []
    for photograph in (astronaut(), coffee()):
        grey = torch.tensor(photograph).float().mean(-1)[None]
        cut = 3 * grey.shape[1] // 4
        for part, pieces in ((grey[:, :cut], upper), (grey[:, cut:], lower)):
            pieces.append(part.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).reshape(-1, 1, SIDE, SIDE))
    return torch.cat(upper).round().byte(), torch.cat(lower).round().byte()


def run(script: str, *options: object) -> None:
    subprocess.run([sys.executable, str(TRAINERS / script), *map(str, options)], check=True)


def losses(folder: Path, clean: torch.Tensor) -> list[float]:
    """Squared error of the prior on clean pictures that it never saw, at each level."""
    prior, n = load_prior(folder), torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return [float((prior.denoise(clean + s * n, s) - clean).square().mean()) for s in LEVELS]


def main(folder: Path) -> None:
    upper, lower = pictures()
    train, test = [(f"{i}", p) for i, p in enumerate(upper)], lower.float() / 127.5 - 1
    blur = Corruption(clean_share=0.05, damages=(GaussianBlur(width=1.5, sigma_min=0.0),))
    write_corrupted(train, len(train), blur, folder / "set")
    table, toy = folder / "table.jsonl", "--steps 200 --batch 32 --width 16 --lr 2e-3 --levels 16".split()
    run("annotate.py", "--data", f"corrupted:{folder / 'set'}", "--out", table, *toy)

    found = {}
    for name, source, drop in (
        ("clean alone", {}, True),
        ("all as clean", {}, False),
        ("annotated", {"annotations": str(table)}, False),
    ):
        settings = {**TRAINING, "sources": [{"path": "corrupted:set", **source}], "drop_noisy": drop}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        run("train.py", "--config", folder / f"{name}.yaml", "--data-root", folder, "--out", folder / name)
        found[name] = losses(folder / name / "prior", test)
    print(f"{'error at sigma':14}", *(f"{s:8g}" for s in LEVELS))
    for name, row in found.items():
        print(f"{name:14}", *(f"{value:8.4f}" for value in row))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
