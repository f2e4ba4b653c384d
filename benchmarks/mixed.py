"""Ten photographs with several damages at once: ours, stated and estimated, against classical methods.

    python benchmarks/mixed.py --out runs/mixed --data DATA
    python benchmarks/mixed.py --out runs/mixed --table                    (print what has been measured)
    python benchmarks/mixed.py --jpeg                                      (a JPEG by its coefficients, or by `daps`)
    python benchmarks/mixed.py --scratches                                 (how many of them are found, and what else)

The photographs are scikit-image's, 256 pixels a side; the damaged files are written, and restored as a user restores
them. *stated* is given the true numbers; *auto* estimates noise and blur, reads the quality from the file and, of the
old photograph, finds the scratches. Elsewhere both have the mask, which a user paints. The classical methods have the
true numbers: *filled* is the biharmonic filling of what is missing, enlarged by cubic splines where the picture was
reduced, and what non-local means (fast, patches of 5) and Richardson-Lucy (10 to 30 iterations, the best of three
by PSNR with the truth, which is more than they can know) begin with; TV has the whole operator but the JPEG. LPIPS
needs DATA/weights/alexnet_features_fp16.safetensors. Rows are kept in rows.jsonl; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import Solver, load_prior, operators
from ambient_solve.data.images import to_tensor
from ambient_solve.errors import own_words_for_misfit
from ambient_solve.evaluate.baselines import total_variation
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.noise import Streams
from ambient_solve.restore import OldPhotograph, Picture, Task, make_task, read_measurement, restore_file
from ambient_solve.restore.scratches import find_scratches

SIDE = 256
METHODS = ("damaged", "filled", "non-local means", "tv", "richardson-lucy", "auto", "stated")
BORDER = 16
"""Pixels of a photograph round it, for what blurs into the frame."""
WITHIN = 1.0
"""Decibels by which *auto* may be below *stated*."""


def scratches(size: tuple[int, int], seed: int, count: int = 7, width: int = 2) -> np.ndarray:
    """Bent lines, True = missing."""
    random, (height, columns) = np.random.default_rng(seed), size
    image = Image.new("L", (columns, height))
    pen = ImageDraw.Draw(image)
    for _ in range(count):
        place, angle = random.uniform(0, 1, 2) * (columns, height), random.uniform(0, 2 * np.pi)
        points = [tuple(place)]
        for _ in range(8):
            angle += random.normal(0, 0.12)
            place = place + min(size) / 12 * np.array([np.cos(angle), np.sin(angle)])
            points.append(tuple(place))
        pen.line(points, fill=255, width=width)
    return np.asarray(image) > 0


def words(size: tuple[int, int]) -> np.ndarray:
    """A line of text across the picture, True = missing."""
    image = Image.new("L", size[::-1])
    pen = ImageDraw.Draw(image)
    for row in range(24, size[0], 64):
        pen.text((8, row), "Copyright, do not copy, do not print", fill=255, font_size=22)
    return np.asarray(image) > 100


def at_random(size: tuple[int, int], share: float) -> np.ndarray:
    """Pixels lost at random, True = missing."""
    return np.random.default_rng(0).uniform(size=size) < share


@dataclass(frozen=True)
class Case:
    """A photograph and what is done to it: a blur, a reduction, noise, JPEG, missing pixels.

    Attributes:
        task: What a user calls it. known: The true numbers. unknown: The same with "auto" in place of numbers.
        missing: Makes the missing pixels from (H, W); they are `bright` in the file.
    """

    photo: str
    task: str
    sigma: float
    known: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    missing: Callable[[tuple[int, int]], np.ndarray] | None = None
    quality: int = 0
    bright: float = 0.95
    found: bool = False

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.photo}: {self.task}"


CASES = (
    Case("astronaut", "inpaint+denoise+jpeg", 0.04, missing=lambda s: scratches(s, 3), quality=80, found=True),
    Case("coffee", "denoise+jpeg", 0.06, quality=85),
    Case("rocket", "inpaint+gaussian-blur", 0.01, {"width": 1.2}, {"width": "auto"}, lambda s: at_random(s, 0.3)),
    Case("chelsea", "denoise+motion-blur", 0.03, {"length": 9.0, "angle": 30.0}, {"length": "auto", "angle": "auto"}),
    Case("motorcycle", "denoise+super-resolution", 0.03, {"factor": 2}),
    Case("astronaut", "super-resolution+jpeg", 0.005, {"factor": 2}, quality=85),
    Case("coffee", "gaussian-blur+jpeg", 0.01, {"width": 1.0}, {"width": "auto"}, quality=95),
    Case("camera", "inpaint+gaussian-blur", 0.02, {"width": 1.5}, {"width": "auto"}, words),
    Case("chelsea", "inpaint+denoise", 0.1, missing=lambda s: at_random(s, 0.5)),
    Case("rocket", "inpaint+super-resolution", 0.02, {"factor": 2}, missing=lambda s: scratches(s, 5, 5)),
)


def photograph(name: str) -> Tensor:
    """(3, SIDE + 2 BORDER, SIDE + 2 BORDER) in [0, 1], from the middle, reduced where it is large."""
    array = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
    image, side = Image.fromarray(array).convert("RGB"), SIDE + 2 * BORDER
    least = min(image.size)
    if least < side:
        image = image.resize((round(image.width * side / least), round(image.height * side / least)), Image.LANCZOS)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return to_tensor(image.crop((left, top, left + side, top + side)), 3).float() / 255


def task_of(case: Case, mask: Path | None, estimated: bool) -> Task:
    """What a user states."""
    if case.found and estimated:
        return OldPhotograph()
    options = dict(case.unknown if estimated else {}) or dict(case.known)
    options = {**case.known, **options, "sigma": "auto" if estimated else case.sigma}
    return make_task(case.task, **options, **({} if mask is None else {"mask": str(mask)}))


def damaged(case: Case, seed: int, folder: Path) -> tuple[Path, Path | None, Tensor]:
    """The damaged file, its mask, and the truth (3, SIDE, SIDE)."""
    whole = photograph(case.photo)
    x = whole[:, BORDER:-BORDER, BORDER:-BORDER]
    blur = next((part for part in case.task.split("+") if "blur" in part), None)
    y = x[None]
    if "factor" in case.known:
        y = operators.Reduction(tuple(x.shape), case.known["factor"]).A(y)
    if blur is not None:
        single = make_task(blur, **{k: v for k, v in case.known.items() if k != "factor"})
        op = single.operator(Picture(Path("a.png"), y, ()))
        reach = [(n - m) // 2 for n, m in zip(op.img_size[-2:], y.shape[-2:], strict=True)]
        y = op.A(
            whole[None, :, BORDER - reach[0] : BORDER + SIDE + reach[0], BORDER - reach[1] : BORDER + SIDE + reach[1]]
        )
    y = y + case.sigma * Streams([seed], 1).normal(y)
    mask = None
    if case.missing is not None:
        missing = case.missing(tuple(y.shape[-2:]))
        y = torch.where(torch.from_numpy(missing), case.bright, y)
        mask = folder / "mask.png"
        Image.fromarray(missing).save(mask)
    path = folder / ("damaged.jpg" if case.quality else "damaged.png")
    values = (255 * y[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path, **({"quality": case.quality} if case.quality else {}))
    return path, mask, x


def classical(case: Case, path: Path, mask: Path | None, x: Tensor) -> dict[str, Tensor]:
    """What the classical methods make of a damaged file, each (3, SIDE, SIDE)."""
    from skimage.restoration import denoise_nl_means, inpaint_biharmonic, richardson_lucy
    from skimage.transform import resize

    picture = read_measurement(path)
    y = picture.y[0].permute(1, 2, 0).numpy()

    def enlarged(z: np.ndarray) -> np.ndarray:
        return z if z.shape[0] == SIDE else resize(z, (SIDE, SIDE), order=3, mode="edge")

    filled = y
    if mask is not None:
        filled = inpaint_biharmonic(y, np.asarray(Image.open(mask)) > 0, channel_axis=-1, split_into_regions=False)
    means = denoise_nl_means(filled, 5, 7, 0.8 * case.sigma, sigma=case.sigma, fast_mode=True, channel_axis=-1)
    found = {"damaged": enlarged(y), "filled": enlarged(filled), "non-local means": enlarged(means)}
    kernel = next((make_task(p, **{k: v for k, v in case.known.items() if k != "factor"}).describe().numpy()
                   for p in case.task.split("+") if "blur" in p), None)  # fmt: skip
    if kernel is not None:
        tries = []
        for steps in (10, 20, 30):
            channels = [richardson_lucy(filled[..., i], kernel / kernel.sum(), steps) for i in range(3)]
            tries.append(np.stack(channels, -1))
        found["richardson-lucy"] = min(tries, key=lambda z: float(((z - x.permute(1, 2, 0).numpy()) ** 2).mean()))
    stated = case.task.replace("+jpeg", "")
    options = {**case.known, "sigma": case.sigma, **({} if mask is None else {"mask": str(mask)})}
    task = make_task(stated, **options)
    measured = task.measure(picture)
    with torch.no_grad():
        flat = total_variation(measured.y, measured.op, weight=max(case.sigma, 0.01) / 2, iterations=100)
    tv = task.to_output(flat[:, None], picture)[0, 0]
    return {name: torch.from_numpy(np.ascontiguousarray(z)).permute(2, 0, 1).float() for name, z in found.items()} | {
        "tv": tv
    }


def measure(number: int, case: Case, out: Path, metrics: Metrics, rows: list[dict], settings: dict[str, Any]) -> None:
    """Every method on one case; rows that are there are not measured again."""
    done = {row["method"] for row in rows if row["case"] == number}
    with tempfile.TemporaryDirectory() as folder:
        path, mask, x = damaged(case, number, Path(folder))

        def keep(method: str, picture: Tensor, seconds: float, notes: Sequence[str] = ()) -> None:
            row = {"case": number, "name": case.name, "method": method, **metrics(picture, x), "seconds": seconds}
            rows.append({**row, "notes": list(notes)})
            print(f"{case.name}, {method}: {row['psnr']:.2f} dB, {seconds:.0f} s. {' '.join(notes)}", flush=True)
            with (out / "rows.jsonl").open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")

        if "tv" not in done:
            started = time.process_time()
            for method, picture in classical(case, path, mask, x).items():
                keep(method, picture, time.process_time() - started)
        for method in ("auto", "stated"):
            if method in done:
                continue
            started = time.process_time()
            with own_words_for_misfit():
                outcome = restore_file(path, load_prior("photos"), task_of(case, mask, method == "auto"), **settings)
            said = [n for n in outcome.notes if "estimated" in n or "scratches" in n]
            keep(method, outcome.restoration.mean[0], time.process_time() - started, said)


def table(rows: Sequence[dict]) -> str:
    """Markdown: PSNR and LPIPS of each case and method, and how often *auto* is near *stated*."""
    lines = [f"| damage | {' | '.join(METHODS)} |", "|---" * (1 + len(METHODS)) + "|"]
    gaps, best = [], 0
    for number in sorted({row["case"] for row in rows}):
        own = {row["method"]: row for row in rows if row["case"] == number}
        cells = []
        for method in METHODS:
            row = own.get(method)
            lpips = "" if row is None or "lpips" not in row else f", {row['lpips']:.3f}"
            cells.append("" if row is None else f"{row['psnr']:.2f}{lpips}")
        lines.append(f"| {CASES[number].name} | {' | '.join(cells)} |")
        if {"auto", "stated"} <= set(own):
            gaps.append(own["auto"]["psnr"] - own["stated"]["psnr"])
            others = [own[m]["psnr"] for m in METHODS[:-2] if m in own]
            best += own["auto"]["psnr"] > max(others)
    near = sum(gap >= -WITHIN for gap in gaps)
    lines += [
        "",
        f"*auto* is within {WITHIN:g} dB of *stated* in {near} of {len(gaps)}, and above every classical method",
    ]
    lines[-1] += f" in {best}."
    return "\n".join(lines)


def of_jpeg() -> None:
    """A noisy picture that was stored as JPEG: measured by its coefficients, or as it is, by `daps`."""
    prior, x = load_prior("photos"), photograph("astronaut")[None, :, 80:208, 80:208]
    print("| noise | quality | before | `daps` | coefficients, `proximal` |\n|---|---|---|---|---|")
    for sigma, quality in ((0.0, 20), (0.04, 80), (0.05, 50)):
        with tempfile.TemporaryDirectory() as folder:
            path, noisy = Path(folder, "a.jpg"), x + sigma * Streams([0], 1).normal(x)
            Image.fromarray((255 * noisy[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()).save(
                path, quality=quality
            )
            picture = read_measurement(path)
            coded = make_task("denoise+jpeg", sigma=max(sigma, 0.001)).measure(picture)
        whole = operators.jpeg(x.shape[1:], quality, max(sigma, 0.02))
        runs = [
            (Solver(prior, "daps", steps=20, ode_steps=1, langevin_steps=20), picture.y, whole),
            (Solver(prior, "proximal", steps=25), coded.y, coded.op),
        ]
        errors = [picture.y - x]
        with own_words_for_misfit():
            errors += [s.solve(y, op, n_samples=2, progress=False).mean.clamp(0, 1) - x for s, y, op in runs]
        found = [f"{float(-10 * e.square().mean().log10()):.2f}" for e in errors]
        print(f"| {sigma:g} | {quality} | {' | '.join(found)} |", flush=True)


def of_scratches() -> None:
    """Scratches drawn on noisy photographs: the share that is found, and the share of the picture found beside them."""
    print("| photograph | found | of the rest |\n|---|---|---|")
    for seed, name, width, value in (
        (3, "astronaut", 2, 1.0),
        (4, "coffee", 2, 1.0),
        (5, "chelsea", 1, 1.0),
        (6, "rocket", 2, 0.05),
        (7, "camera", 2, 1.0),
    ):
        x = photograph(name)[:, BORDER:-BORDER, BORDER:-BORDER]
        y = x + 0.04 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        drawn = torch.from_numpy(scratches((SIDE, SIDE), seed, width=width))
        found = find_scratches(torch.where(drawn, value, y).clamp(0, 1)[None]) == 0
        near = F.max_pool2d(drawn[None, None].float(), 7, 1, 3)[0, 0] > 0
        rest = float((found & ~near).float().mean())
        print(f"| {name}, {width} px | {float(found[drawn].float().mean()):.2f} | {rest:.3f} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mixed"))
    parser.add_argument("--data", type=Path, help="folder with weights/, for LPIPS")
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))), help="their numbers, from 0")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--samples", type=int, help="of ours, by default those of the preset")
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    parser.add_argument("--jpeg", action="store_true", help="two ways to measure a JPEG, and nothing else")
    parser.add_argument("--scratches", action="store_true", help="how well they are found, and nothing else")
    given = parser.parse_args(arguments)
    if given.jpeg or given.scratches:
        (of_jpeg if given.jpeg else of_scratches)()
        return
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    if not given.table:
        weights = None if given.data is None else given.data / "weights" / "alexnet_features_fp16.safetensors"
        metrics = Metrics(weights)
        for number in given.cases:
            settings = {"preset": given.preset, "n_samples": given.samples}
            measure(number, CASES[number], given.out, metrics, rows, settings)
    print(table(rows))


if __name__ == "__main__":
    main()
