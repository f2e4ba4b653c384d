"""What bad data teach: priors of clean, few, noisy, blurred and masked pictures of faces, 32 px, equally long trained.

    python benchmarks/arms.py --data DATA --out runs/arms --experiment noise
    python benchmarks/arms.py --data DATA --out runs/arms --experiment omni
    python benchmarks/arms.py --data DATA --out runs/arms --experiment masked
    python benchmarks/arms.py --out runs/arms --table            (print what has been measured)

Every arm is `trainers/train.py --config trainers/configs/faces32.yaml` with another damage and nothing else changed.
Noise has 400 pictures, so that 10 % clean are 40 and clean data are as scarce for so short a training as they are in
the paper; omni has 2000, masked all. Each measured arm is kept in arms.jsonl; an interrupted one resumes. Measured on
1000 samples of each (18 Heun steps):

- Frechet distance to 4000 clean pictures that no arm has seen, in the 64 features of a ResNet-56 trained on CIFAR-10,
  by torchmetrics. It is no FID: that needs another network, more samples and larger pictures. The floor is that of
  1000 other such pictures.
- *copies*: share of samples whose nearest picture of these is less than .6 times as far as the second nearest; over
  that of held-out pictures it shows reciting.
- *detail*: power in the highest octave of frequencies over that of held-out pictures.
- PSNR of denoising held-out pictures at three levels, empty where a prior was not trained so low; the *gain* over 10 %
  clean alone is that of the mean over the levels, paired by picture, with its standard error.
- For masked data the error of one-step restoration on the pixels that were hidden, over that of the same network
  trained to inpaint with clean pictures; *longer* saw as many pixels as that, in 1 / .6 as many pictures.

Levels of Ambient-o are those of the paper for 32 px: 2.32 for blur of width 1, 1.40 for JPEG 18 (arXiv 2506.10038). An
arm with consistency calls its network eight times for each picture, the others once; *min* are the minutes of training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve import load_prior
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.sampling import generate

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "trainers" / "configs" / "faces32.yaml"
SAMPLES, STEPS, LEVELS = 1000, 18, (0.1, 0.2, 0.4)
PICTURES = {"noise": 400, "omni": 2000, "masked": 0}
"""What each experiment has to learn from; 0 is all."""
MISSING = {"40 %": 0.4, "60 %": 0.6, "80 %": 0.8}


def damage(clean: float, **kind: Any) -> dict[str, Any]:
    return {"corruption": {"seed": 0, "clean_share": clean, "damages": [kind] if kind else []}}


LONGER = "longer"
"""How many times as many pictures an arm sees as the others."""
DROP = {"drop_noisy": True}
ALONE = {"kind": "noise", "sigma": 0.2}
BLUR, JPEG = {"kind": "gaussian-blur", "width": 1.0}, {"kind": "jpeg", "quality": 18}
EXPERIMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "noise": {
        "100 % clean": damage(1.0, **ALONE),
        "30 % clean": damage(0.3, **ALONE) | DROP,
        "10 % clean": damage(0.1, **ALONE) | DROP,
        "10 % clean, 90 % noisy .2": damage(0.1, kind="noise", sigma=0.2),
        "10 % clean, 90 % noisy .4": damage(0.1, kind="noise", sigma=0.4),
        # Without consistency nothing is learned below the noise of the data, where such a prior stops.
        "100 % noisy .2": damage(0.0, **ALONE)
        | {"network": {"size": [32, 32], "widths": [48, 96, 128], "sigma_min": 0.24, "sigma_max": 80.0}},
        "100 % noisy .2, consistency": damage(0.0, **ALONE) | {"objective": {"kind": "consistency", "where": "below"}},
    },
    "omni": {
        "10 % clean": damage(0.1, **ALONE) | DROP,
        "10 % clean, 90 % blurred, as clean": damage(0.1, **BLUR),
        "10 % clean, 90 % blurred, Ambient-o": damage(0.1, **BLUR, sigma_min=2.32),
        "10 % clean, 90 % JPEG 18, as clean": damage(0.1, **JPEG),
        "10 % clean, 90 % JPEG 18, Ambient-o": damage(0.1, **JPEG, sigma_min=1.4),
    },
    "masked": {
        "supervised inpainter, 40 % missing": damage(1.0, **ALONE)
        | {"objective": {"kind": "masked", "delta": 0.4, "delta_min": 0.4}},
        **{
            f"{name} missing": damage(0.0, kind="random-mask", missing=p) | {"objective": {"kind": "masked"}}
            for name, p in MISSING.items()
        },
        # As many pixels as the supervised inpainter is shown, where a picture has 60 % of them.
        "40 % missing, longer": damage(0.0, kind="random-mask", missing=0.4)
        | {"objective": {"kind": "masked"}, LONGER: 1 / 0.6},
        "40 % missing, delta 0": damage(0.0, kind="random-mask", missing=0.4)
        | {"objective": {"kind": "masked", "delta": 0.0}},
    },
}


class ResNet56(nn.Module):
    """The CIFAR-10 network of He et al. (2015, arXiv 1512.03385, section 4.2), identity shortcuts, up to its features.

    Takes uint8 (B, 3, 32, 32), returns (B, 64).
    """

    num_features = 64

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.weights = {k: v.float() for k, v in load_file(weights).items()}
        self.mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        self.std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        h = self._convolve((x.float() / 255 - self.mean) / self.std, "conv1", "bn1").relu()
        for layer in (1, 2, 3):
            for block in range(9):
                name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
                r = self._convolve(h, f"{name}.conv1", f"{name}.bn1", stride).relu()
                r = self._convolve(r, f"{name}.conv2", f"{name}.bn2")
                if stride == 2:
                    pad = (r.shape[1] - h.shape[1]) // 2
                    h = F.pad(h[..., ::2, ::2], (0, 0, 0, 0, pad, pad))
                h = (h + r).relu()
        return h.mean((-2, -1))

    def _convolve(self, h: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        h = F.conv2d(h, self.weights[f"{conv}.weight"], stride=stride, padding=1)
        parts = (self.weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(h, *parts)


def to_uint8(z: Tensor) -> Tensor:
    return ((z.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def frechet(features: ResNet56, real: Tensor, made: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=features, input_img_size=(3, 32, 32))
    for pictures, is_real in ((real, True), (made, False)):
        for part in pictures.split(500):
            metric.update(part, real=is_real)
    return float(metric.compute())


def copies(made: Tensor, known: Tensor) -> float:
    """Share of `made` that is suspiciously near one picture of `known`: .6 times as far as the second nearest."""
    first, second = torch.cdist(made.flatten(1).float(), known.flatten(1).float()).topk(2, largest=False).values.T
    return float((first < 0.6 * second).float().mean())


def detail(pictures: Tensor) -> float:
    """Mean power of the frequencies above half of Nyquist."""
    power = torch.fft.fft2(pictures.float().mean(1) / 127.5).abs().square().mean(0)
    f = torch.fft.fftfreq(power.shape[-1]).abs()
    return float(power[torch.maximum(f[:, None], f[None]) > 0.25].mean())


def denoised(prior: Prior, pictures: Tensor) -> dict[str, list[float]]:
    """PSNR of each of uint8 `pictures`, denoised at those of `LEVELS` that the prior knows."""
    clean, found = pictures.float() / 127.5 - 1, {}
    for sigma in LEVELS:
        if sigma >= prior.sigma_min:
            z = prior.denoise(clean + sigma * Streams(range(len(clean)), 1).normal(clean), sigma)
            found[str(sigma)] = (10 * torch.log10(4 / (z - clean).square().flatten(1).mean(1))).tolist()
    return found


def hidden_error(prior: AmbientPrior, held_out: Tensor, missing: float) -> float:
    """Mean squared error of one-step restoration on the hidden pixels of held-out pictures, in [-1, 1] units."""
    z = held_out.float() / 127.5 - 1
    mask = (torch.rand(len(z), 1, *z.shape[-2:], generator=torch.Generator().manual_seed(0)) > missing).float()
    errors = []
    for rows in torch.arange(len(z)).split(100):
        seen, given = z[rows] * mask[rows], mask[rows]
        hidden = (1 - given).expand_as(seen).bool()
        errors.append((prior.restore_once(seen, given) - z[rows]).square()[hidden])
    return float(torch.cat(errors).mean())


def settings_of(arm: dict[str, Any]) -> dict[str, Any]:
    return {**yaml.safe_load(CONFIG.read_text()), **arm}


def train(experiment: str, name: str, data: Path, out: Path, images: int) -> Path:
    folder = out / experiment / "".join(c if c.isalnum() else "-" for c in name)
    folder.mkdir(parents=True, exist_ok=True)
    arm = dict(EXPERIMENTS[experiment][name])
    images = round(images * arm.pop(LONGER, 1))
    settings = settings_of(arm) | {"images": images, "duplicates": False}
    settings["sources"][0]["limit"] = PICTURES[experiment]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(ROOT / "trainers" / "train.py"), "--config", str(folder / "config.yaml")]
    subprocess.run([*command, "--data-root", str(data), "--out", str(folder)], check=True)
    return folder / "prior"


@torch.no_grad()
def measure(experiment: str, name: str, folder: Path, data: Path) -> dict[str, Any]:
    source = settings_of({})["sources"][0]
    read = [p for _, p in read_images(data / source["path"], 3, source["shrink"])]
    pictures = torch.stack(shuffled(read, settings_of({}).get("seed", 0)))
    known, held_out = pictures[: -source["held_out"]], pictures[-source["held_out"] :]
    row: dict[str, Any] = {"experiment": experiment, "arm": name}
    if experiment == "masked":
        missing = next(p for text, p in MISSING.items() if text in name)
        return row | {"missing": missing, "hidden": hidden_error(load_prior(folder), held_out[:500], missing)}
    seen, unseen = known[: PICTURES[experiment]], known[PICTURES[experiment] :]
    prior, features = load_prior(folder), ResNet56(data / "weights" / "resnet56_cifar10.safetensors")
    made = to_uint8(generate(prior, SAMPLES, size=32, steps=STEPS, batch=250, progress=True))
    return row | {
        "frechet": frechet(features, unseen[:4000], made),
        "floor": frechet(features, unseen[:4000], unseen[4000 : 4000 + SAMPLES]),
        "copies": copies(made, seen),
        "copies held out": copies(held_out, seen),
        "detail": detail(made) / detail(held_out),
        "psnr": denoised(prior, held_out[:200]),
    }


def price(rows: list[dict[str, Any]]) -> str:
    """How many noisy pictures replace a clean one, read off the held-out PSNR of 10, 30 and 100 % clean data."""
    quality = {
        r["arm"]: _quality(r).mean() for r in rows if r["experiment"] == "noise" and len(r["psnr"]) == len(LEVELS)
    }
    curve = [quality.get(f"{share} % clean") for share in (10, 30, 100)]
    lines = []
    for sigma in (".2", ".4"):
        mixed = quality.get(f"10 % clean, 90 % noisy {sigma}")
        if mixed is None or any(q is None for q in curve):
            continue
        if sorted(curve) != curve or not curve[0] <= mixed <= curve[-1]:
            lines.append(f"The mix with noise {sigma} lies outside the curve of clean shares: no price is read off.")
            continue
        share = np.exp(np.interp(mixed, curve, np.log([10, 30, 100])))
        lines.append(
            f"A picture with noise {sigma} counts as {(share - 10) / 90:.2f} clean ones: by PSNR (mean of the levels) "
            f"the mix is as good as {share:.0f} % clean data (interpolated in the logarithm of the share)."
        )
    return "\n".join(lines)


def _quality(row: dict[str, Any]) -> np.ndarray:
    """PSNR of each picture, mean over the levels."""
    return np.mean(list(row["psnr"].values()), 0)


def gain(row: dict[str, Any], base: dict[str, Any] | None) -> str:
    """How much a picture gains over the arm `base`, in dB, with the standard error; empty where they do not compare."""
    if base is None or row is base or row["psnr"].keys() != base["psnr"].keys():
        return ""
    each = _quality(row) - _quality(base)
    return f"{each.mean():+.3f} ± {each.std(ddof=1) / len(each) ** 0.5:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    parts = []
    for experiment in EXPERIMENTS:
        own = [r for r in rows if r["experiment"] == experiment]
        if experiment == "masked" and own:
            best = next((r["hidden"] for r in own if r["arm"].startswith("supervised")), None)
            parts.append("| arm | error on hidden pixels | over the supervised inpainter |\n|---|---|---|")
            for r in own:
                ratio = f"{r['hidden'] / best:.2f}" if best and r["missing"] == 0.4 else ""
                parts[-1] += f"\n| {r['arm']} | {r['hidden']:.4f} | {ratio} |"
        elif own:
            levels = " | ".join(f"PSNR at {s}" for s in LEVELS)
            floor, known = own[0]["floor"], own[0]["copies held out"]
            head = f"| arm | Frechet (floor {floor:.2f}) | copies (held out {known:.3f}) | detail | {levels} | gain "
            head += "| min |"
            parts.append(f"{head}\n" + "|---" * 9 + "|")
            base = next((r for r in own if r["arm"] == "10 % clean"), None)
            for r in own:
                psnr = [f"{np.mean(r['psnr'][str(s)]):.2f}" if str(s) in r["psnr"] else "" for s in LEVELS]
                cells = [f"{r['frechet']:.2f}", f"{r['copies']:.3f}", f"{r['detail']:.2f}", *psnr, gain(r, base)]
                parts[-1] += f"\n| {' | '.join([r['arm'], *cells, str(round(r['seconds'] / 60))])} |"
    return "\n\n".join([*parts, price(rows)]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with faces/ and weights/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--experiment", choices=list(EXPERIMENTS), default="noise")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--images", type=int, help="samples seen by each arm")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    path = args.out / "arms.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to train; --table alone prints what has been measured.")
        images = args.images or settings_of({})["images"]
        if any(r["images"] != images for r in rows):
            parser.error(f"{path} holds arms that saw another number of pictures: choose another --out.")
        done = {(r["experiment"], r["arm"]) for r in rows}
        for name in EXPERIMENTS[args.experiment]:
            if (args.experiment, name) in done or (args.arms and name not in args.arms):
                continue
            folder = train(args.experiment, name, args.data, args.out, images)
            *_, state = sorted(folder.parent.glob("checkpoint-*/state.json"), key=lambda p: int(p.parent.name[11:]))
            seen = {"images": images, "seconds": json.loads(state.read_text())["seconds"]}
            rows.append(measure(args.experiment, name, folder, args.data) | seen)
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
