"""Images a second of our training loop beside two others on a CPU: same network, data, batch; interleaved in one run.

    python benchmarks/training.py --data DATA --out runs/training-speed

`ours` is trainers/train.py at its defaults (bfloat16 and channels-last where the hardware multiplies bfloat16, else
float32; fused optimiser, sigma-first batches, compiled)
but for the learning rate, which is constant, and the noise levels, which are those of the EDM loop. `ours, float32` is
the same at equal precision; `ours, not compiled` is what runs of fewer than 200,000 pictures are by default. `edm` is a
loop in the style of the EDM reference (Karras et al., 2022): float32, its loss, Adam, an average updated parameter by
parameter, pictures from a DataLoader (in the process itself, as the others have them). `diffusers` follows the steps of
diffusers' unconditional example: float32, DDPM noise schedule and epsilon prediction, AdamW, its EMAModel. Each run is
a process of its own; seconds are those of the loop after its first tenth, and *start* is what the first tenth takes
beyond that, compiling above all; memory is the peak of the process. After the same number of pictures all are compared
on the same held-out pictures, by PSNR of the averaged weights at sigma .2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ambient_solve.data.images import read_images
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.training.card import denoising_psnr

ROOT = Path(__file__).parents[1]
PACK, SHRINK, HELD_OUT, CROP, BATCH, LR = "faces/utkface64.npz", 2, 500, 32, 32, 5e-4
NETWORK = NetworkConfig(size=(CROP, CROP), widths=(48, 96, 128))
LOOPS = ("ours", "ours, float32", "ours, not compiled", "edm", "diffusers")
START = 0.1
"""Share of a run that is not timed."""


class Pictures(Dataset):
    """float32 (C, H, W) in [-1, 1], mirrored at random."""

    def __init__(self, pictures: list[Tensor]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        z = self.pictures[i].float() / 127.5 - 1
        return z.flip(-1) if np.random.rand() < 0.5 else z


def pictures(data: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Training and held-out pictures, uint8."""
    found = [picture for _, picture in read_images(data / PACK, 3, SHRINK)]
    return found[:-HELD_OUT], found[-HELD_OUT:]


def batches(data: Path) -> DataLoader:
    return DataLoader(Pictures(pictures(data)[0]), BATCH, shuffle=True, drop_last=True)  # no worker: one core each


def pace(images: int, first: float, last: float, whole: float) -> dict[str, float]:
    """Images a second between the times `first` and `last` of a tenth of a run and of its end, which took `whole`."""
    rate = (1 - START) * images / (last - first)
    return {"rate": rate, "start": max(0.0, whole - images / rate)}


def edm(data: Path, images: int) -> tuple[NetworkPrior, dict[str, float]]:
    """An EDM-style loop: the averaged prior, and its pace."""
    prior = NetworkPrior(NETWORK, "float32")
    average = NetworkPrior(NETWORK, "float32")
    average.load_state_dict(prior.state_dict())
    optimizer = torch.optim.Adam(prior.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8)
    loader, seen, times = batches(data), 0, [time.perf_counter()]
    while seen < images:
        for z in loader:
            sigma = (torch.randn(len(z), 1, 1, 1) * 1.2 - 1.2).exp().clamp(NETWORK.sigma_min, NETWORK.sigma_max)
            weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
            out = prior(z + sigma * torch.randn_like(z), sigma.flatten())
            optimizer.zero_grad(set_to_none=True)
            (weight * (out - z) ** 2).sum().mul(1 / BATCH).backward()
            for parameter in prior.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
            optimizer.step()
            seen += BATCH
            keep = 0.5 ** (BATCH / max(min(8_000, 0.05 * seen), 1e-8))
            for old, new in zip(average.parameters(), prior.parameters(), strict=True):
                old.data.copy_(new.detach().lerp(old.data, keep))
            times.append(time.perf_counter())
            if seen >= images:
                break
    return average, pace(images, times[round(START * (len(times) - 1))], times[-1], times[-1] - times[0])


def diffusers(data: Path, images: int) -> tuple[NetworkPrior, dict[str, float]]:
    """The steps of diffusers' unconditional example, with the network of ours as its epsilon model."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from torch.nn import functional as F

    prior = NetworkPrior(NETWORK, "float32")
    average = EMAModel(prior.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    accelerator, schedule = Accelerator(cpu=True), DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=LR, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=100, num_training_steps=images // BATCH)
    network, optimizer, loader, rate = accelerator.prepare(prior.network, optimizer, batches(data), rate)
    bar, seen, times = schedule.alphas_cumprod, 0, [time.perf_counter()]
    while seen < images:
        for z in loader:
            n, t = torch.randn_like(z), torch.randint(0, 1000, (len(z),), device=z.device)
            with accelerator.accumulate(network):
                # The time enters as EDM's does, so that the averaged network can be judged as a prior.
                sigma = ((1 - bar[t]) / bar[t]).sqrt()
                out = network(schedule.add_noise(z, n, t), sigma.log() / 4)
                accelerator.backward(F.mse_loss(out.float(), n.float()))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            average.step(prior.parameters())
            seen += BATCH
            times.append(time.perf_counter())
            if seen >= images:
                break
    average.copy_to(prior.parameters())
    return Epsilon(prior), pace(images, times[round(START * (len(times) - 1))], times[-1], times[-1] - times[0])


class Epsilon(NetworkPrior):
    """The prior of a network trained to predict the noise of a DDPM state."""

    def __init__(self, trained: NetworkPrior) -> None:
        super().__init__(trained.config, "float32")
        self.load_state_dict(trained.state_dict())

    def denoise(self, z: Tensor, sigma: float, cond: None = None) -> Tensor:
        s = torch.as_tensor(sigma, dtype=torch.float32).expand(len(z))
        scale = (1 + s**2).rsqrt()[:, None, None, None]
        return z - s[:, None, None, None] * self.network(z * scale, s.log() / 4)


def ours(data: Path, images: int, loop: str, out: Path) -> tuple[NetworkPrior, dict[str, float]]:
    """The training command, as a user gives it."""
    steps = images // BATCH
    config = {
        "sources": [{"path": PACK, "shrink": SHRINK, "held_out": HELD_OUT}],
        "corruption": {"clean_share": 1.0},
        "network": {"size": [CROP, CROP], "widths": list(NETWORK.widths)},
        **{"crop": CROP, "batch": BATCH, "lr": LR, "images": images},
        **{"precision": "fp32" if "float32" in loop else "auto", "compile": "never" if "not" in loop else "always"},
        **{"schedule": "constant", "warmup": 0},  # as the others have it: the loops are compared, not the schedules
        **{"duplicates": False, "tracker": "none", "validate_every": 0},
        **{"stats_every": round(START * steps), "checkpoint_every": steps},
        **{"level_mean": -1.2, "level_std": 1.2},  # the levels of EDM, so that the curves are of the same loss
    }
    if out.exists():
        raise SystemExit(f"{out} holds an earlier run: choose another --out.")
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, str(ROOT / "trainers" / "train.py"), "--config", str(out / "config.yaml")]
    process = subprocess.Popen([*command, "--data-root", str(data), "--out", str(out)], stdout=subprocess.DEVNULL)
    rows, times = out / "stats.jsonl", []
    while process.poll() is None:
        written = len(rows.read_text().splitlines()) if rows.exists() else 0
        times += [time.perf_counter()] * (written - len(times))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{loop} failed.")
    (state,) = out.glob("checkpoint-*/state.json")
    whole = json.loads(state.read_text())["seconds"]
    return NetworkPrior.load(out / "prior", "float32"), pace(images, times[0], times[-1], whole)


def one(loop: str, data: Path, images: int, out: Path) -> dict[str, float]:
    """Images a second and held-out PSNR of one loop."""
    torch.manual_seed(0)
    if loop.startswith("ours"):
        prior, found = ours(data, images, loop, out)
    else:
        prior, found = {"edm": edm, "diffusers": diffusers}[loop](data, images)
    prior.eval().requires_grad_(False)
    return found | {"psnr": denoising_psnr(prior, pictures(data)[1], CROP)[0.2][1]}


def measured(loop: str, data: Path, images: int, out: Path) -> dict[str, float]:
    """`one`, in a process of its own, with the peak memory of that process and its children."""
    command = [sys.executable, __file__, "--data", str(data), "--out", str(out), "--images", str(images), "--one", loop]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{loop} failed.")
    return {**json.loads(text.strip().splitlines()[-1]), "memory": usage.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with faces/utkface64.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6_400, help="length of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=LOOPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.images % round(BATCH / START):
        parser.error(f"--images {args.images} must be a multiple of {round(BATCH / START)}: a tenth is timed apart.")
    if args.one:
        print(json.dumps(one(args.one, args.data, args.images, args.out)))
        return
    rows: dict[str, list[dict[str, float]]] = {loop: [] for loop in LOOPS}
    for repeat in range(args.repeats):
        for loop in LOOPS:
            folder = args.out / f"{loop.replace(', ', '-')}-{repeat}"
            rows[loop].append(measured(loop, args.data, args.images, folder))
            print(f"{loop}: {rows[loop][-1]['rate']:.0f} images/s", file=sys.stderr)
    middle = {loop: statistics.median(r["rate"] for r in found) for loop, found in rows.items()}
    head = ("loop", "images/s: min, median, max", "of edm", "of diffusers", "start, s", "peak memory, GiB")
    print(f"| {' | '.join((*head, 'PSNR at sigma .2, dB'))} |\n{'|---' * 7}|")
    for loop, found in rows.items():
        rates = sorted(r["rate"] for r in found)
        print(
            f"| {loop} | {rates[0]:.0f}, {middle[loop]:.0f}, {rates[-1]:.0f} | {middle[loop] / middle['edm']:.2f} | "
            f"{middle[loop] / middle['diffusers']:.2f} | {max(r['start'] for r in found):.0f} | "
            f"{max(r['memory'] for r in found):.2f} | {statistics.mean(r['psnr'] for r in found):.2f} |"
        )


if __name__ == "__main__":
    main()
