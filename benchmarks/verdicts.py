"""Is misstated damage noticed? Verdicts on right statements and on twenty wrong ones, and the thresholds they rest on.

    python benchmarks/verdicts.py --out runs/verdicts                  (measure what is missing, print the table)
    python benchmarks/verdicts.py --out runs/verdicts --record         (write ambient_solve/verdict/thresholds.json too)
    python benchmarks/verdicts.py --out runs/verdicts --table          (print what has been measured)
    python benchmarks/verdicts.py --out runs/verdicts --data DATA      (with its photographs: those that count, too)
    python benchmarks/verdicts.py --out runs/verdicts --spectra        (what needs no samples: which blur is stated)
    python benchmarks/verdicts.py --out runs/verdicts --minutes 7      (stop after the case at which they are over)

Photographs of 64 x 64 pixels are cut out of fourteen that scikit-image ships. Each is damaged, every other time stored
in 8 bits, and restored as `ambient-solve restore` does it, with three of its presets. Thresholds are set on right
statements alone, of these photographs and of TESTS of DATA. The other ones of DATA are what counts: false alarms, and
wrong statements that are noticed. Without DATA false alarms are counted on photographs of sources that the thresholds
have not seen, in FOLDS turns.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ambient_solve import Solver, load_prior, operators
from ambient_solve.data.images import to_tensor
from ambient_solve.presets import PRESETS
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import make_task
from ambient_solve.verdict import judge, words
from ambient_solve.verdict.blur import spectra_of

SIDE = 64
SOURCES: dict[str, Callable[[], np.ndarray]] = {
    "rocket": skimage.data.rocket,
    "camera": skimage.data.camera,
    "coins": skimage.data.coins,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "hubble": skimage.data.hubble_deep_field,
    "astronaut": skimage.data.astronaut,
    "chelsea": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "moon": skimage.data.moon,
    "ihc": skimage.data.immunohistochemistry,
    "retina": skimage.data.retina,
    "brick": skimage.data.brick,
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
}
OWN = tuple(SOURCES)
PLACES = ((0.5, 0.5), (0.25, 0.3), (0.7, 0.65))
"""Where a photograph is cut out of its source, as shares of the room that there is."""
FOLDS = 10
"""Turns in which sources are left out of the thresholds."""
TESTS = 24
"""Test photographs of DATA that set thresholds, evenly spread over the pack; all others are counted."""
MARGIN = 1.4
"""Factor by which a range is wider than what was seen on ENOUGH measurements, for pictures that are like none."""
DECISIVE = {"kernel": (-8.0, 1.0, 10.0)}
"""Ranges that are stated: of a logarithm of odds, and not of what photographs happen to show. Those of parallel lines
show movements of their own, and would hide those of all others."""
ENOUGH = 150
"""Measurements of which MARGIN holds; of fewer, what is added to a range grows with their square root."""

Statement = tuple[str, dict[str, Any]]


def denoise(sigma: float) -> Statement:
    return "denoise", {"sigma": sigma}


def blur(width: float, sigma: float = 0.02) -> Statement:
    return "gaussian-blur", {"width": width, "sigma": sigma}


def motion(length: float, angle: float, sigma: float = 0.02) -> Statement:
    return "motion-blur", {"length": length, "angle": angle, "sigma": sigma}


def small(how: str = "bicubic", sigma: float = 0.02) -> Statement:
    return "super-resolution", {"filter": how, "sigma": sigma}


def missing(mask: str, sigma: float = 0.02, shift: int = 0) -> Statement:
    return "inpaint", {"mask": mask, "sigma": sigma, "shift": shift}


def jpeg(quality: int) -> Statement:
    return "jpeg", {"quality": quality, "sigma": 0.02}


RIGHT: dict[str, Statement] = {
    "noise .05": denoise(0.05),
    "noise .1": denoise(0.1),
    "noise .2": denoise(0.2),
    "Gaussian blur 1.5": blur(1.5),
    "Gaussian blur 1.5, noise .01": blur(1.5, 0.01),
    "Gaussian blur 2.5, noise .05": blur(2.5, 0.05),
    "motion 9 at 30": motion(9, 30),
    "motion 15 at 0": motion(15, 0),
    "half size, bicubic": small(),
    "half size, box": small("box"),
    "box missing": missing("box"),
    "scratches": missing("scratches"),
    "60 % missing": missing("scattered"),
    "JPEG 10": jpeg(10),
    "JPEG 30": jpeg(30),
}


@dataclass(frozen=True)
class Wrong:
    """What was done, what is stated, the causes that are right, and what happens to the measurement afterwards."""

    true: Statement
    stated: Statement
    causes: tuple[str, ...]
    change: Callable[[Tensor], Tensor] = lambda y: y


def dirt(mask: str, value: float) -> Callable[[Tensor], Tensor]:
    """What stands in the missing pixels of a picture: a scratch is white, a hole black."""
    return lambda y: torch.where(mask_of(mask) > 0, y, torch.tensor(value))


WRONG: dict[str, Wrong] = {
    "blur 1.5 as 3.0": Wrong(blur(1.5), blur(3.0), (words.BLUR_NARROWER,)),
    "blur 1.5 as 1.0": Wrong(blur(1.5), blur(1.0), (words.BLUR_WIDER,)),
    "sharp as blur 1.5": Wrong(denoise(0.02), blur(1.5), (words.BLUR_NARROWER, words.NO_BLUR)),
    "motion as blur 2.0": Wrong(motion(9, 30), blur(2.0), (words.MOVEMENT,)),
    "motion 30 degrees off": Wrong(motion(15, 30), motion(15, 0), (words.DIRECTION,)),
    "motion 9 as 15": Wrong(motion(9, 0), motion(15, 0), (words.SHORTER,)),
    "motion 15 as 9": Wrong(motion(15, 0), motion(9, 0), (words.LONGER,)),
    "blur 1.5 as motion": Wrong(blur(1.5), motion(15, 0), (words.ROUND_BLUR,)),
    "noise stated half": Wrong(denoise(0.1), denoise(0.05), (words.NOISE_HIGHER,)),
    "noise stated double": Wrong(denoise(0.1), denoise(0.2), (words.NOISE_LOWER,)),
    "noise stated a third": Wrong(denoise(0.15), denoise(0.05), (words.NOISE_HIGHER,)),
    "noise of a blur half": Wrong(blur(1.5, 0.04), blur(1.5, 0.02), (words.NOISE_HIGHER,)),
    "noise of a blur double": Wrong(blur(1.5, 0.02), blur(1.5, 0.04), (words.NOISE_LOWER,)),
    "noise, half size, a third": Wrong(small(sigma=0.06), small(), (words.NOISE_HIGHER,)),
    "scratch mask 2 px off": Wrong(
        missing("scratches"), missing("scratches", shift=2), (words.MASK,), dirt("scratches", 1.0)
    ),
    "scattered mask 2 px off": Wrong(
        missing("scattered"), missing("scattered", shift=2), (words.MASK,), dirt("scattered", 0.0)
    ),
    "0..255 divided twice": Wrong(blur(1.5), blur(1.5), (words.VALUES,), lambda y: y / 255),
    "gamma after the blur": Wrong(blur(1.5), blur(1.5), (words.VALUES,), lambda y: y.clamp(0, 1) ** 2.2),
    "JPEG 30 as 10": Wrong(jpeg(30), jpeg(10), (words.QUALITY,)),
    "half size, bicubic as Gaussian": Wrong(small(), small("gaussian"), (words.DAMAGE,)),
}


SPECTRUM = "spectrum alone"
"""What needs no samples: whether a blur is noticed by what `verdict.blur` says of the measurement."""
SAMPLES = {"fast": 2, "balanced": 2, "faithful": 1}
"""How many are drawn, by preset."""
NEW = "new"
"""Kind of right statements on the test photographs of DATA that set thresholds."""
COUNTED = "counted"
"""Kind of right statements on the other ones."""


def tests_of(data: Path | None) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The photographs of DATA/eval/eval256.npz, which are sources then: those that set thresholds, and all others."""
    if data is None:
        return [], []
    with np.load(data / "eval" / "eval256.npz", allow_pickle=False) as pack:
        files, offsets = pack["data"], pack["offsets"]
    setting: list[tuple[str, int]] = []
    counted: list[tuple[str, int]] = []
    chosen = set(np.linspace(0, len(offsets) - 2, TESTS).round().astype(int).tolist())
    for i in range(len(offsets) - 1):
        raw = files[offsets[i] : offsets[i + 1]].tobytes()
        SOURCES[f"test {i}"] = lambda raw=raw: np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        (setting if i in chosen else counted).append((f"test {i}", 0))
    return setting, counted


def pictures(count: int) -> list[tuple[str, int]]:
    """The first `count` photographs: source and place, so that any few come from many sources."""
    return [(name, place) for place in range(len(PLACES)) for name in OWN][:count]


@cache
def source(name: str) -> Tensor:
    x = to_tensor(Image.fromarray(SOURCES[name]())).float() / 255
    x = interpolate(x[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return x if len(x) == 3 else x.expand(3, -1, -1)


def photograph(name: str, place: int, size: Sequence[int]) -> Tensor:
    x = source(name)
    top, left = (round(at * (n - m)) for at, n, m in zip(PLACES[place], x.shape[-2:], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


def mask_of(name: str, shift: int = 0) -> Tensor:
    """(SIDE, SIDE), 1 = observed, moved to the right by `shift` pixels."""
    mask = torch.ones(SIDE, SIDE)
    if name == "box":
        mask[22:42, 20:44] = 0
    elif name == "scattered":
        mask = (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(7)) > 0.6).float()
    else:
        for row in range(SIDE):
            for start, slope in ((8, 0.6), (30, 0.2), (50, -0.4)):
                first = int(start + slope * row)
                mask[row, [(first + k) % SIDE for k in range(3)]] = 0
    return mask.roll(shift, 1)


def operator(statement: Statement) -> Any:
    task, options = statement
    options = dict(options)
    if task == "jpeg":
        return operators.jpeg((3, SIDE, SIDE), options["quality"], options["sigma"])
    if task == "inpaint":
        options["mask"] = mask_of(options["mask"], options.pop("shift"))
    side = SIDE // 2 if task == "super-resolution" else SIDE
    return make_task(task, **options).operator(Picture(Path("x.png"), torch.zeros(1, 3, side, side), ()))


def measured(true: Statement, photographs: Sequence[tuple[str, int]], seed: int) -> Tensor:
    op = operator(true)
    size = op.img_size[-2:] if true[0] != "inpaint" else (SIDE, SIDE)
    y = op.A(torch.stack([photograph(*which, size) for which in photographs]))
    if true[0] == "jpeg":
        return y
    return y + true[1]["sigma"] * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))


def stored(name: str, case: Wrong, chosen: Sequence[tuple[str, int]], seed: int) -> Tensor:
    """The measurements of photographs, every other one in 8 bits."""
    y = case.change(measured(case.true, chosen, zlib.crc32(f"{name} {seed}".encode())))
    in_8_bits = torch.arange(len(y)) % 2 == seed % 2
    return torch.where(in_8_bits[:, None, None, None], (y.clamp(0, 1) * 255).round() / 255, y)


def rows(
    way: str, name: str, kind: str, case: Wrong, chosen: Sequence[tuple[str, int]], seed: int, prior: Any
) -> Iterator[dict[str, Any]]:
    """One row of numbers for each photograph."""
    task = case.stated[0]
    algorithm, settings = PRESETS[way].chosen(task)
    y = stored(name, case, chosen, seed)
    made = Solver(prior, algorithm, **settings).solve(y, operator(case.stated), n_samples=SAMPLES[way], seed=seed)
    for b, (photo, place) in enumerate(chosen):
        yield {
            "way": way,
            "kind": kind,
            "name": name,
            "source": photo,
            "place": place,
            "seed": seed,
            "operator": made.settings["operator"],
            "algorithm": made.settings["algorithm"],
            "family": judge.family_of(made.settings["operator"], made.evidence, b),
            "numbers": judge.statistics(made.chi2[b].tolist(), made.evidence, b),
        }


def of_spectra(
    name: str, kind: str, case: Wrong, chosen: Sequence[tuple[str, int]], seed: int
) -> Iterator[dict[str, Any]]:
    """One row for each photograph, of what its spectrum alone says of a stated blur."""
    y, op = stored(name, case, chosen, seed), operator(case.stated)
    variance = torch.full((len(y),), case.stated[1]["sigma"] ** 2)
    spectra = spectra_of(y, op.filter[:, 0].expand(len(y), -1, -1), variance)
    for b, (photo, place) in enumerate(chosen):
        found = spectra.compared(b)
        yield {
            "way": SPECTRUM,
            "kind": kind,
            "name": name,
            "source": photo,
            "place": place,
            "seed": seed,
            "algorithm": SPECTRUM,
            "family": "blur" if case.stated[0] == "gaussian-blur" else judge.DIRECTED,
            "numbers": {"sigma": case.stated[1]["sigma"]} | ({} if found is None else found.numbers),
        }


def measure(
    out: Path, plan: Sequence[tuple[str, str, Sequence[tuple[str, int]]]], only: Sequence[str] | None, minutes: float
) -> None:
    """Measure what is missing of `plan`: way, kind, photographs; begin nothing after so many minutes."""
    file, prior, seed, started = out / "rows.jsonl", load_prior("photos"), 0, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    done = {(r["way"], r["kind"], r["name"], r["seed"]) for r in read(out)}
    for way, kind, chosen in plan:
        cases = WRONG if kind == "wrong" else {n: Wrong(s, s, ()) for n, s in RIGHT.items()}
        for name, case in cases.items() if chosen else ():
            if (way, kind, name, seed) in done:
                continue
            if only is not None and case.stated[0] not in only:
                continue
            if time.monotonic() - started > 60 * minutes:
                raise SystemExit("The time is over; the same command goes on.")
            if way == SPECTRUM and not case.stated[0].endswith("blur"):
                continue
            if way == SPECTRUM:
                found = of_spectra(name, kind, case, chosen, seed)
            else:
                found = rows(way, name, kind, case, chosen, seed, prior)
            lines = [json.dumps(row) for row in found]
            with file.open("a") as opened:
                opened.write("\n".join(lines) + "\n")
            print(f"{way}, {kind}: {name}", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    file = out / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


Ranges = dict[str, tuple[float, float, float]]


def calibrated(right: Sequence[dict[str, Any]]) -> Ranges:
    """The ranges of the statistics of one family and algorithm: all that was seen, and MARGIN beyond it."""
    ranges: Ranges = {}
    margin = 1 + (MARGIN - 1) * max(1.0, math.sqrt(ENOUGH / len(right)))
    for name in words.STATISTICS:
        values = np.array([judge.scale(name, r["numbers"][name]) for r in right if name in r["numbers"]])
        if len(values) >= len(right) / 2:
            low, middle, high = values.min(), float(np.median(values)), values.max()
            if name in DECISIVE:
                ranges[name] = DECISIVE[name]
                continue
            least = judge.LEAST.get(name, 0.02)
            ends = middle - margin * max(middle - low, least), middle, middle + margin * max(high - middle, least)
            ranges[name] = tuple(judge.unscale(name, float(end)) for end in ends)
    return ranges


def fitted(right: Sequence[dict[str, Any]]) -> dict[str, dict[str, Ranges]]:
    """The ranges by family and algorithm; what the spectrum says is the same for all algorithms."""
    groups = defaultdict(list)
    for row in right:
        groups[row["family"], row["algorithm"]].append(row)
    found: dict[str, dict[str, Ranges]] = defaultdict(dict)
    for (family, algorithm), members in sorted(groups.items()):
        found[family][algorithm] = calibrated(members)
    for algorithms in found.values():
        own = algorithms.get(SPECTRUM, {})
        for ranges in algorithms.values():
            ranges |= {name: three for name, three in own.items() if name in ("kernel", "noise")}
    return dict(found)


def verdict(row: dict[str, Any], ranges: dict[str, dict[str, Ranges]]) -> Any:
    known = ranges.get(row["family"], {}).get(row["algorithm"], {})
    return judge.concluded(row["numbers"], known, row["family"])


def held_out(right: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Any]]:
    """Each right statement with a verdict by thresholds that have not seen its source."""
    found, names = [], sorted({r["source"] for r in right})
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        ranges = fitted([r for r in right if r["source"] not in out])
        found += [(r, verdict(r, ranges)) for r in right if r["source"] in out]
    return found


def table(measured_rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the table; return what the thresholds' file says of it."""
    setting = [r for r in measured_rows if r["kind"] in ("right", NEW)]
    ranges = fitted(setting)
    counted = [(r, verdict(r, ranges)) for r in measured_rows if r["kind"] == COUNTED] or held_out(setting)
    share = lambda values: sum(values) / max(len(values), 1)  # noqa: E731
    summary: dict[str, Any] = {"false alarms": {}, "caught": {}}
    for way in dict.fromkeys(r["way"] for r in measured_rows):
        print(f"\n| {way}: right statement | alarms | by | misfit outside of {judge.FIT[0]:g} to {judge.FIT[1]:g} |")
        print("|---|---|---|---|")
        for name in RIGHT:
            mine = [(r, v) for r, v in counted if (r["way"], r["name"]) == (way, name)]
            alarms = [v for _, v in mine if v.level != words.RIGHT]
            misfits = [not judge.FIT[0] <= r["numbers"].get("misfit", 1.0) <= judge.FIT[1] for r, _ in mine]
            if not mine:
                continue
            print(f"| {name} | {len(alarms)} of {len(mine)} | {_most(alarms)} | {100 * share(misfits):.0f} % |")
        alarms = [v.level != words.RIGHT for r, v in counted if r["way"] == way]
        summary["false alarms"][way] = share(alarms)
        print(f"\nIn all {sum(alarms)} of {len(alarms)}, {100 * share(alarms):.1f} %.")
        print(f"\n| {way}: done, and stated | noticed | of these *wrong* | cause named | and right | by |")
        print("|---|---|---|---|---|---|")
        caught = []
        for name, case in WRONG.items():
            mine = [r for r in measured_rows if (r["way"], r["kind"], r["name"]) == (way, "wrong", name)]
            if not mine:
                continue
            found = [v for v in (verdict(r, ranges) for r in mine) if v.level != words.RIGHT]
            named = [v for v in found if v.keys[0] != words.DAMAGE]
            counts = (
                sum(v.level == words.WRONG for v in found),
                len(named),
                sum(v.keys[0] in case.causes for v in named),
            )
            print(f"| {name} | {len(found)} of {len(mine)} | {' | '.join(map(str, counts))} | {_most(found)} |")
            caught += [True] * len(found) + [False] * (len(mine) - len(found))
        summary["caught"][way] = share(caught)
        print(f"\nIn all {sum(caught)} of {len(caught)}, {100 * share(caught):.0f} %.")
    for algorithms in ranges.values():
        algorithms.pop(SPECTRUM, None)
    return {"summary": summary, "ranges": ranges}


def _most(verdicts: Sequence[Any]) -> str:
    """The statistics that were farthest outside most often."""
    return ", ".join(f"{name} {n}" for name, n in Counter(v.by for v in verdicts).most_common(2))


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    return float(f"{values:.4g}") if isinstance(values, float) and math.isfinite(values) else values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the measured rows")
    parser.add_argument(
        "--data", type=Path, help="folder with eval/eval256.npz: thresholds rest on its photographs too"
    )
    parser.add_argument("--record", action="store_true", help="write the thresholds")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--spectra", action="store_true", help="measure what needs no samples")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="measure statements of these tasks")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which nothing new is begun")
    given = parser.parse_args()
    if not given.table:
        new, counted = tests_of(given.data)
        wrong = (counted or pictures(10))[::2]
        plan = [(SPECTRUM, COUNTED, counted), (SPECTRUM, "wrong", wrong)]
        plan += [(SPECTRUM, "right", pictures(20)), (SPECTRUM, NEW, new)]
        plan += [("fast", COUNTED, counted), ("fast", "wrong", wrong)]
        plan += [("fast", "right", pictures(20)), ("fast", NEW, new), ("balanced", "wrong", wrong[::3])]
        plan += [("balanced", COUNTED, counted[1::4]), ("balanced", "right", pictures(4)), ("balanced", NEW, new[::3])]
        plan += [("faithful", "right", pictures(3)), ("faithful", NEW, new[::8]), ("faithful", "wrong", wrong[:1])]
        measure(
            given.out, [part for part in plan if part[0] == SPECTRUM or not given.spectra], given.only, given.minutes
        )
    found = table(read(given.out))
    if given.record:
        source_of = {
            "command": "python benchmarks/verdicts.py --out runs/verdicts --data DATA --record",
            "prior": "photos",
        }
        text = json.dumps(rounded({"source": source_of, **found}), indent=1)
        judge.THRESHOLDS.write_text(text + "\n")


if __name__ == "__main__":
    main()
