"""Train a prior on noisy photographs, a tenth of them clean, and restore a picture with it: a minute on one core.

    pip install 'ambient-solve[train]'
    python examples/train_from_noisy_photos.py

Bring your own pictures in the same form: a safetensors file with one tensor `z` (C, H, W) in [-1, 1] for each, and a
line of manifest.jsonl that tells its noise. Everything is written to out/noisy; a second run goes on with the first.
"""

import json
import subprocess
import sys
from pathlib import Path

import skimage.data
import torch
import yaml
from safetensors.torch import save_file

from ambient_solve import NetworkPrior, Solver, load_prior, operators
from ambient_solve.training.card import denoising_psnr

OUT, SIDE, SIGMA = Path("out/noisy"), 32, 0.1
TRAIN = Path(__file__).resolve().parents[1] / "trainers" / "train.py"


def photograph(name):
    """uint8 (3, H, W)."""
    return torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1)


def crops(name):
    """A photograph cut into squares, uint8 (n, 3, SIDE, SIDE)."""
    tiles = photograph(name).unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)


# 1. The damaged data. What is saved is all that training will see.
folder, draw, rows = OUT / "damaged", torch.Generator().manual_seed(0), []
folder.mkdir(parents=True, exist_ok=True)
for i, crop in enumerate(torch.cat([crops(name) for name in ("astronaut", "coffee", "rocket")])):
    sigma, z = (0.0 if i % 10 == 0 else SIGMA), crop / 127.5 - 1
    rows.append({"file": f"{i:04d}.safetensors", "sigma_noise_01": sigma})
    save_file({"z": z + 2 * sigma * torch.randn(z.shape, generator=draw)}, folder / rows[-1]["file"])
(folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
print(f"{len(rows)} pictures, {sum(row['sigma_noise_01'] == 0 for row in rows)} of them clean")

# 2. Training, at toy size.
settings = {
    "name": "noisy-photos",
    "data_root": str(OUT),
    "sources": [{"path": "corrupted:damaged", "terms": "photographs of scikit-image"}],
    "network": {"widths": [32, 64], "embedding": 64},
    "crop": SIDE,
    "level_std": 1.0,
    "images": 4_800,
    "batch": 16,
    "lr": 2e-3,
    "warmup": 480,
    "precision": "fp32",
}
(OUT / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
command = [sys.executable, str(TRAIN), "--config", str(OUT / "config.yaml"), "--out", str(OUT / "run")]
subprocess.run(command, check=True)
prior = load_prior(OUT / "run" / "prior")

# 3. How well it denoises a photograph that it never saw, beside the same network before training.
networks = NetworkPrior(prior.config).eval(), prior
before, after = (denoising_psnr(network, list(crops("chelsea")), SIDE) for network in networks)
for sigma in (0.4, 1.0):
    noisy, untrained = before[sigma]
    print(f"noise {sigma}: {noisy:.2f} dB, untrained {untrained:.2f} dB, trained {after[sigma][1]:.2f} dB")

# 4. Any inverse problem.
x = photograph("chelsea")[None, :, 80:144, 150:214] / 255  # the cat's eyes, (1, 3, 64, 64) in [0, 1]
op = operators.inpaint_random(x.shape[1:], missing=0.5, sigma=0.02)
torch.manual_seed(0)
y = op(x)
r = Solver(prior).solve(y, op, n_samples=4)
r.save(OUT / "restored")
before, after = (float(-10 * (picture - x).square().mean().log10()) for picture in (y, r.mean))
print(f"half of the pixels missing: {before:.2f} dB, restored {after:.2f} dB, misfit {r.chi2.mean():.2f}")
print(f"The prior is in {OUT / 'run' / 'prior'}, the pictures are in {OUT / 'restored'}")
