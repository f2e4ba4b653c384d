"""Fine-tune `photos` on 200 damaged pictures of another kind: what is learned, and what is memorized.

    python benchmarks/finetune.py --data DATA --out runs/finetune
    python benchmarks/finetune.py --out runs/finetune --table            (print what has been measured)

All at 32 px, 200 pictures each, no clean one among them, all of the weights, equally many pictures seen:

- brain slices with a box of .4 of their side missing: *ambient* learns them by `masked`;
- faces with noise .4 in units of [-1, 1]: *ambient* learns them by `denoise`, above their noise; what lies below is
  left to `photos`. *consistency* learns that too, and calls the network five times for each picture.

*naive* fine-tunes on the same pictures and takes them for clean: the box is grey, the noise is skin. *scratch* is
ambient without a prior to start from, *photos* is the prior as it was. Measured on 200 held-out pictures of the kind:

- PSNR of denoising at three levels, of clean pictures that are seen whole; the *gain* over naive is that of the mean
  over the levels, paired by picture, with its standard error;
- near copies among 200 samples, recall from 50 % noise against `photos` (ambient_solve/evaluate/memorization.py).
  Both count the picture as stored and the clean one, whichever is nearer. 5 % are recalled by chance.

Each measured arm is kept in arms.jsonl, each training in checkpoints: an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ambient_solve import load_prior
from ambient_solve.data.corruption import MANIFEST, Corruption, read_corrupted, write_corrupted
from ambient_solve.data.damages import make_damage
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.evaluate.memorization import memorization
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.sampling import generate
from ambient_solve.saving import replace_text, save_tensors
from ambient_solve.training.checkpoints import Checkpoints
from ambient_solve.training.config import Config, make, settings_of
from ambient_solve.training.finetune import finetune, planned
from ambient_solve.training.loop import train

SIDE = 32
PICTURES = 200
HELD_OUT = 200
SAMPLES = 200
STEPS = 6
LEVELS = (0.2, 0.5, 1.0)
DOMAINS: dict[str, dict[str, Any]] = {
    "brain": {
        "path": "mri/brain2d128.npz",
        "shrink": 4,
        "damage": {"kind": "box-mask", "side": 0.4},
        "objective": {"kind": "masked"},
    },
    "faces": {
        "path": "faces/utkface64.npz",
        "shrink": 2,
        "damage": {"kind": "noise", "sigma": 0.4},
        "objective": {"kind": "denoise"},
    },
}
LOWEST = {"faces": 0.5}
"""Where nothing but noisy pictures is learned from, the lowest level that they say anything of."""
ARMS = ("photos", "naive", "ambient", "scratch", "consistency")
CONSISTENCY = {"kind": "consistency", "steps": 1}
RUN = {
    "crop": SIDE,
    "batch": 8,
    "lr": 1e-3,
    "warmup": 160,
    "precision": "fp32",
    "validate_every": 0,
    "stats_every": 20,
    "checkpoint_every": 20,
    "duplicates": False,
    "tracker": "none",
    "compile": "never",
}


def pictures(domain: str, data: Path) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """What is learned from, clean, and what is held out."""
    given = DOMAINS[domain]
    every = shuffled(list(read_images(data / given["path"], 3, given["shrink"])), 0)
    return every[:PICTURES], every[PICTURES : PICTURES + HELD_OUT]


def damaged(domain: str, part: str, clean: list[tuple[str, Tensor]], out: Path) -> Path:
    """A folder with the damaged pictures; beside it one in which nothing says so."""
    folder, naive = out / domain / part, out / domain / f"{part}-naive"
    plan = Corruption(seed=1, clean_share=0.0, damages=(make_damage(DOMAINS[domain]["damage"]),))
    if not (folder / MANIFEST).is_file():
        write_corrupted(clean, len(clean), plan, folder, source=f"{domain} {part}")
    if not (naive / MANIFEST).is_file():
        naive.mkdir(exist_ok=True)
        rows = []
        for i, sample in enumerate(read_corrupted(folder)):
            save_tensors({"z": sample.z}, naive / f"{i}.safetensors")
            rows.append(json.dumps({"file": f"{i}.safetensors", "name": sample.name, "sigma_noise": 0.0}) + "\n")
        replace_text(naive / MANIFEST, "".join(rows))
    return folder


def configuration(domain: str, arm: str, out: Path, images: int) -> Config:
    source = out.resolve() / domain / ("train-naive" if arm == "naive" else "train")
    changes = {"objective": DOMAINS[domain]["objective"]}
    changes |= {"naive": {"objective": {"kind": "denoise"}}, "consistency": {"objective": CONSISTENCY}}.get(arm, {})
    given = {"out": str(out / domain / arm), "name": f"{domain} {arm}", "init": "photos", "images": images}
    config = make(Config, {**RUN, **given, **changes, "sources": [{"path": f"corrupted:{source}"}]}, arm)
    if arm != "scratch":
        return config
    fresh = settings_of(planned(config)[0]) | {"init": ""}  # the same network, without its weights
    fresh["network"]["sigma_min"] = LOWEST.get(domain, fresh["network"]["sigma_min"])
    return make(Config, fresh, arm)


@torch.no_grad()
def denoised(prior: Prior, z: Tensor) -> np.ndarray:
    """PSNR in dB of each held-out picture at each of LEVELS, (N, levels)."""
    cond = torch.ones(len(z), prior.mask_channels, SIDE, SIDE) if isinstance(prior, AmbientPrior) else None
    found = []
    for level in LEVELS:
        if level < prior.sigma_min:
            found.append(np.full(len(z), np.nan))
            continue
        noisy = z + level * Streams(range(len(z)), 1).normal(z)
        error = (prior.denoise(noisy, level, cond) - z).square().flatten(1).mean(1)
        found.append((10 * torch.log10(4 / error)).numpy())
    return np.stack(found, 1)


def measure(domain: str, arm: str, data: Path, out: Path, images: int) -> dict[str, Any]:
    known, apart = pictures(domain, data)
    stored = [list(read_corrupted(damaged(domain, p, own, out))) for p, own in (("train", known), ("apart", apart))]
    clean = [torch.stack([x.float() / 127.5 - 1 for _, x in own]) for own in (known, apart)]
    versions = [[z, torch.stack([s.z.float() for s in own])] for z, own in zip(clean, stored, strict=True)]
    photos = load_prior("photos", "float32")
    prior, minutes = photos, 0.0
    if arm != "photos":
        config = configuration(domain, arm, out, images)
        folder = train(config) if arm == "scratch" else finetune(config)
        prior, minutes = load_prior(folder, "float32"), Checkpoints(Path(config.out)).state()[1] / 60
    row = {"domain": domain, "arm": arm, "images": images, "minutes": minutes}
    row["psnr"] = denoised(prior, clean[1]).tolist()
    if arm != "photos":
        made = generate(prior, SAMPLES, size=SIDE, steps=STEPS, batch=50, progress=True)
        row |= memorization(prior, photos, made, *versions).as_row()
    return row


def table(rows: list[dict[str, Any]]) -> str:
    heads = [f"PSNR at {s}" for s in LEVELS]
    parts = []
    for domain in DOMAINS:
        own = {r["arm"]: r for r in rows if r["domain"] == domain}
        if not own:
            continue
        columns = [*heads, "gain over naive", "near copies (features)", "recalled (features)", "min"]
        parts.append(f"| {domain} | {' | '.join(columns)} |\n" + "|---" * (1 + len(columns)) + "|")
        for arm, row in own.items():
            psnr = np.array(row["psnr"])
            cells = ["" if np.isnan(v) else f"{v:.2f}" for v in psnr.mean(0)]
            if "naive" in own and arm != "naive" and not np.isnan(psnr).any():
                each = psnr.mean(1) - np.array(own["naive"]["psnr"]).mean(1)
                cells.append(f"{each.mean():+.2f} ± {each.std(ddof=1) / len(each) ** 0.5:.2f}")
            else:
                cells.append("")
            if "known" in row:
                cells.append(f"{100 * row['copies_pixels']:.1f} % ({100 * row['copies_features']:.1f} %)")
                cells.append(f"{100 * row['recalled_pixels']:.1f} % ({100 * row['recalled_features']:.1f} %)")
            else:
                cells += ["", ""]
            cells.append(f"{row['minutes']:.1f}")
            parts[-1] += f"\n| {arm} | {' | '.join(cells)} |"
        chance = next((r["copies_by_chance"] for r in own.values() if "known" in r), None)
        if chance is not None:
            parts[-1] += f"\n\nOf held-out pictures {100 * chance:.1f} % are near copies of one that was learned from."
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mri/ and faces/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--images", type=int, default=1600, help="pictures seen by each arm")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    path = args.out / "arms.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to train; --table alone prints what has been measured.")
        for arm in args.arms:
            for domain in args.domains:
                measured = any((r["domain"], r["arm"], r["images"]) == (domain, arm, args.images) for r in rows)
                if measured or (domain, arm) == ("brain", "consistency"):  # there is no noise to be consistent below
                    continue
                rows.append(measure(domain, arm, args.data, args.out, args.images))
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
