"""Clips restored frame by frame: what moved noise and guidance buy, on real clips where the truth is known.

    python benchmarks/video.py CLIPS --clips carphone bikes --tasks box denoise --json runs/video.json

CLIPS is a folder of videos. Of each the middle square is cut out, made as small as `--side` by averaging whole pixels,
and damaged by a task; every algorithm restores it under each kind of noise, with and without guidance. The flow is
estimated from the measured clip; the warping error is that along the flow of the true one.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ambient_solve import MisfitWarning, Prior, load_prior, operators
from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.evaluate.metrics import Metrics, psnr
from ambient_solve.evaluate.video import motions_of, temporal_psnr, warping_error
from ambient_solve.knobs import build, knobs
from ambient_solve.noise import Streams
from ambient_solve.video.files import read_video
from ambient_solve.video.guidance import Guidance
from ambient_solve.video.solver import VideoSolver

NOISES = ("fixed", "independent", "nearest", "integral")
"""Kinds of noise that suit a prior of white noise."""


def read_clip(path: Path, frames: int, side: int, first: int = 0, zoom: int = 0) -> Tensor:
    """The middle of a clip, (T, 3, side, side) in [0, 1]: `zoom` pixels a side become one; 0 is as many as fit."""
    found = []
    for frame in read_video(path, first, first + frames):
        height, width = frame.pixels.shape[1:]
        factor = zoom or max(1, min(height, width) // side)
        cut = factor * side
        top, left = (height - cut) // 2, (width - cut) // 2
        part = frame.pixels[:, top : top + cut, left : left + cut].float() / 255
        found.append(torch.nn.functional.avg_pool2d(part, factor))
    return torch.stack(found)


def scratches(side: int) -> Tensor:
    """A mask with five lines that stand still, (side, side), 1 = observed."""
    mask = torch.ones(side, side)
    for k, column in enumerate(range(side // 10, side, side // 5)):
        for row in range(side):
            at = (column + (row * (k - 2)) // 6) % side
            mask[row, at : at + 2] = 0
    return mask


TASKS = {
    "box": lambda side: operators.inpaint_box((3, side, side), side // 4, sigma=0.02),
    "scratches": lambda side: operators.inpaint(scratches(side), sigma=0.02),
    "sr4": lambda side: operators.Reduction((3, side, side), 4, "bicubic"),
    "sr8": lambda side: operators.Reduction((3, side, side), 8, "bicubic"),
    "denoise": lambda side: operators.denoise((3, side, side), 0.2),
}
"""Damages of each frame, by name."""


def missing(op: object) -> Tensor | None:
    """The pixels that a mask hides, (H, W); None of other operators."""
    mask = getattr(op, "mask", None)
    return None if mask is None or type(op).__name__ != "Inpainting" else mask[0, 0] < 0.5


def measure_all(truth: Tensor, op: object) -> Tensor:
    """The measured clip; the noise of frame t is that of seed t."""
    y = op.A(truth)
    level = float(op.noise_model.sigma)
    return torch.cat([frame[None] + level * Streams([t], 1).normal(frame[None]) for t, frame in enumerate(y)])


def run(prior: Prior, algorithm: object, noise: str, guidance: Guidance, clip: tuple, lpips: Metrics | None) -> dict:
    """One cell of the table: `clip` is (truth, measured, operator, motions)."""
    truth, y, op, motions = clip
    started = time.perf_counter()
    found = VideoSolver(prior, algorithm, noise=noise, flow="tvl1", guidance=guidance).solve(y, op, progress=False)
    seconds = time.perf_counter() - started
    x = found.samples[:, 0].clamp(0, 1)
    row = {"psnr": psnr(x, truth), "warping": warping_error(x, motions), "tpsnr": temporal_psnr(x, truth)}
    hidden = missing(op)
    row["warping_there"] = warping_error(x, motions, hidden) if hidden is not None else row["warping"]
    row["psnr_there"] = psnr(x[..., hidden], truth[..., hidden]) if hidden is not None else row["psnr"]
    if lpips is not None:
        row["lpips"] = sum(lpips(a, b)["lpips"] for a, b in zip(x, truth, strict=True)) / len(x)
    row |= {"misfit": float(found.chi2.mean()), "seconds": seconds / len(truth)}
    return row | {"calls": (found.network_calls + found.vjps) / len(truth)}


HEADS = {
    "psnr": ("PSNR", "{:.2f}"),
    "psnr_there": ("PSNR there", "{:.2f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "warping": ("warping error", "{:.2e}"),
    "warping_there": ("warping there", "{:.2e}"),
    "tpsnr": ("temporal PSNR", "{:.2f}"),
    "misfit": ("misfit", "{:.2f}"),
    "seconds": ("s / frame", "{:.2f}"),
    "calls": ("calls / frame", "{:.0f}"),
}
"""Columns: the head, and how a number is written."""


def table(rows: Sequence[dict]) -> str:
    """Markdown, the mean over clips of each task, algorithm, noise and guidance."""
    keys = ("task", "algorithm", "noise", "guidance")
    names = [n for n in HEADS if n in rows[0]]
    lines = ["| " + " | ".join([*keys, *(HEADS[n][0] for n in names)]) + " |", "|---" * (len(keys) + len(names)) + "|"]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    for key, group in groups.items():
        means = [sum(r[n] for r in group) / len(group) for n in names]
        cells = [HEADS[n][1].format(m) for n, m in zip(names, means, strict=True)]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    return "\n".join(lines)


def read_algorithm(text: str) -> object:
    """Such as "proximal steps=10"."""
    name, *words = shlex.split(text)
    kinds = {k.name: k.type for k in knobs(ALGORITHMS[name])}
    given = dict(word.split("=") for word in words)
    return build(ALGORITHMS[name], **{k: v == "true" if kinds[k] is bool else kinds[k](v) for k, v in given.items()})


def read_guidance(text: str) -> Guidance:
    """Such as "0.9" or "0.9 gradient"."""
    weight, *rule = text.split()
    return Guidance(weight=float(weight), rule=rule[0] if rule else "blend", length=10.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", nargs="+", default=["carphone", "bikes", "cockatoo_a", "cockatoo_b", "realshort"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--algorithms", nargs="+", default=["proximal steps=10"])
    parser.add_argument("--noises", nargs="+", default=list(NOISES))
    parser.add_argument("--guidance", nargs="+", default=["0", "0.9"], help='weights, or "0.9 gradient"')
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--lpips", type=Path, help="the features of AlexNet, as safetensors")
    parser.add_argument("--json", type=Path, help="also write the rows there; those of an earlier run are kept")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore", MisfitWarning)
    prior, lpips = load_prior(args.prior), None if args.lpips is None else Metrics(args.lpips)
    rows = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    done = {tuple(r[k] for k in ("clip", "task", "algorithm", "noise", "guidance")) for r in rows}
    for name in args.clips:
        (path,) = sorted(args.folder.glob(f"{name}*.mp4"))
        truth = read_clip(path, args.frames, args.side)
        motions = motions_of(truth)
        for task in args.tasks:
            op = TASKS[task](args.side)
            y = measure_all(truth, op)
            own = {"psnr": float("inf"), "warping": warping_error(truth, motions)}
            print(f"{name} {task}: warping error of the truth {own['warping']:.2e}", flush=True)
            for text in args.algorithms:
                for guidance in args.guidance:
                    for noise in args.noises:
                        key = (name, task, text, noise, guidance)
                        if key in done:
                            continue
                        row = dict(zip(("clip", "task", "algorithm", "noise", "guidance"), key, strict=True))
                        row |= run(
                            prior, read_algorithm(text), noise, read_guidance(guidance), (truth, y, op, motions), lpips
                        )  # noqa: E501
                        rows.append(row)
                        if args.json:
                            args.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
