"""Train a prior on photographs of which half of the pixels were never seen, and fill the holes of another one.

    pip install 'ambient-solve[train]'
    python examples/train_from_masked.py

The objective hides one more pixel in ten at each training step and asks for it back: what it has learned to fill in it
also fills in where nothing was seen (Ambient Diffusion, arXiv 2305.19256). Everything is written to out/masked; a
second run goes on with the first. A minute on one core.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data
import torch
import yaml
from PIL import Image
from torch.nn.functional import avg_pool2d

from ambient_solve import Solver, load_prior, operators

OUT, SIDE, MISSING = Path("out/masked"), 32, 0.5
TRAIN = Path(__file__).resolve().parents[1] / "trainers" / "train.py"


def photograph(name):
    """At half its size, uint8 (3, H, W)."""
    picture = Image.fromarray(getattr(skimage.data, name)())
    return torch.tensor(np.array(picture.reduce(2))).permute(2, 0, 1)


def crops(name):
    """A photograph cut into squares, uint8 (n, 3, SIDE, SIDE)."""
    tiles = photograph(name).unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)


def psnr(x, truth, peak=1.0):
    return float(10 * (peak**2 / (x - truth).square().mean()).log10())


# 1. Pictures, of which training loses half of the pixels before it begins: one mask for each, and always the same.
(OUT / "pictures").mkdir(parents=True, exist_ok=True)
for i, crop in enumerate(torch.cat([crops(name) for name in ("astronaut", "coffee", "rocket")])):
    Image.fromarray(crop.permute(1, 2, 0).numpy()).save(OUT / "pictures" / f"{i:04d}.png")

# 2. Training, at toy size.
settings = {
    "name": "masked-photos",
    "data_root": str(OUT),
    "sources": [{"path": "pictures", "terms": "photographs of scikit-image"}],
    "corruption": {"damages": [{"kind": "random-mask", "missing": MISSING}], "clean_share": 0.0, "seed": 0},
    "objective": {"kind": "masked"},
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

# 3. The best guess in one network call, for crops of a photograph that it never saw.
z = crops("chelsea") / 127.5 - 1
mask = (torch.rand(len(z), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) >= MISSING).float()
near = avg_pool2d(z * mask, 5, 1, 2) / avg_pool2d(mask, 5, 1, 2).clamp_min(1e-6)  # the mean of what is seen around
guesses = (z * mask, torch.where(mask > 0, z, near), prior.restore_once(z * mask, mask))
holes, filled, restored = (psnr(guess, z, peak=2.0) for guess in guesses)
print(f"held-out crops, half missing: {holes:.2f} dB, the mean around {filled:.2f} dB, the prior {restored:.2f} dB")

# 4. Posterior samples.
x = photograph("chelsea")[None, :, 40:104, 75:139] / 255  # the cat's face, (1, 3, 64, 64) in [0, 1]
op = operators.inpaint_random(x.shape[1:], missing=MISSING, sigma=0.02)
torch.manual_seed(0)
y = op(x)
r = Solver(prior.with_mask(op.mask[0])).solve(y, op, n_samples=4)  # the network sees what was measured
r.save(OUT / "restored")
print(f"half missing: {psnr(y, x):.2f} dB, restored {psnr(r.mean, x):.2f} dB, misfit {r.chi2.mean():.2f}")
print(f"The prior is in {OUT / 'run' / 'prior'}, the pictures are in {OUT / 'restored'}")
