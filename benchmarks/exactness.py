"""How exact is each algorithm? Prints the table of the README; `--record` stores what the tests compare with.

python benchmarks/exactness.py --record                    (an hour; an interrupted one goes on where it stopped)
python benchmarks/exactness.py --table                     (print what has been recorded)
python benchmarks/exactness.py --only mmps --cells 8,4     (measure and print, without recording)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from tqdm import tqdm

from ambient_solve import (
    ADPS,
    DAPS,
    DDNM,
    DDRM,
    DPS,
    FPS,
    MGPS,
    MMPS,
    SITCOM,
    TDS,
    TMPD,
    Algorithm,
    Langevin,
    PiGDM,
    PnPDM,
    Proximal,
    REDdiff,
)
from ambient_solve.algorithms.mmps import TWICE
from ambient_solve.evaluate.exactness import GAUSSIAN, on_gaussian, on_mixture

RECORD = Path(__file__).parents[1] / "tests" / "exactness.json"

ALGORITHMS: dict[str, Algorithm | str] = {
    "auto": "auto",
    "mmps, 100 levels, k = 12": MMPS(steps=100, iterations=12),
    "mmps": MMPS(),
    "mmps, 13 levels taken twice": MMPS(**TWICE),
    "mmps, published rule": MMPS(spread=False),
    "tds": TDS(),
    "fps": FPS(),
    "pigdm": PiGDM(),
    "tmpd": TMPD(),
    "dps, 200 levels": DPS(steps=200),
    "adps, 200 levels": ADPS(steps=200, l_ss=0.3),
    "proximal": Proximal(),
    "diffpir": Proximal.diffpir(),
    "dds": Proximal.dds(),
    "flower": Proximal.flower(),
    "ddnm": DDNM(),
    "ddrm": DDRM(),
    "daps": DAPS(),
    "langevin": Langevin(),
    "annealed langevin": Langevin(precondition=False),
    "pnpdm": PnPDM(),
    "reddiff": REDdiff(),
    "sitcom": SITCOM(),
    "mgps": MGPS(),
}
CELLS = {f"{d},{dy}": problems for d, problems in ((8, 20), (80, 8), (800, 4)) for dy in (1, 2, 4)}
"""Dimensions of the unknown and of the measurement, and how many problems."""
LARGE = ("auto", "tds", "mmps", "mmps, 13 levels taken twice", "pigdm", "dps, 200 levels", "proximal")
"""The rows that are measured at d = 800."""


def measure(name: str, samples: int, cells: list[str], problems: int | None) -> dict[str, dict]:
    """Distances of one row from the exact posteriors."""
    algorithm = ALGORITHMS[name]
    gaussian = {op: dataclasses.asdict(on_gaussian(algorithm, op, samples)) for op in GAUSSIAN}
    mixture = {}
    for cell in cells:
        d, dy = map(int, cell.split(","))
        if d < 800 or name in LARGE:
            mixture[cell] = on_mixture(algorithm, d, dy, range(problems or CELLS[cell]))
    return {"gaussian": gaussian, "mixture": mixture}


def table(record: dict[str, dict]) -> str:
    """The rows in markdown: the Gaussian problems, then the mixtures."""
    cells = [cell for cell in CELLS if any(cell in row["mixture"] for row in record.values())]
    lines = [
        f"| algorithm | bias | variance | distance / floor | {' | '.join(cells)} |",
        "|---" * (4 + len(cells)) + "|",
    ]
    for name in (name for name in ALGORITHMS if name in record):
        rows, mixture = list(record[name]["gaussian"].values()), record[name]["mixture"]
        ratios = [r["ratio"] for r in rows]
        away = max(r["distance"] / r["floor"] for r in rows)
        means = [f"{statistics.mean(w for w, _ in mixture[c]):.2f}" if c in mixture else "" for c in cells]
        lines.append(
            f"| {name} | {max(r['bias'] for r in rows):.2f} | {min(ratios):.2f} - {max(ratios):.2f} | {away:.1f} | "
            f"{' | '.join(means)} |"
        )
    exact = next(row for row in record.values() if all(cell in row["mixture"] for cell in cells))
    bias = max(r["floor_bias"] for r in exact["gaussian"].values())
    floors = [f"{statistics.mean(f for _, f in exact['mixture'][c]):.2f}" for c in cells]
    lines.append(f"| *exact samples* | {bias:.2f} | 1.00 | 1.0 | {' | '.join(floors)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"keep each row in {RECORD.name}")
    parser.add_argument("--again", action="store_true", help="with --record: also the rows that are recorded")
    parser.add_argument("--table", action="store_true", help="only print what has been recorded")
    parser.add_argument("--samples", type=int, default=500, help="samples for each Gaussian problem")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), help="of the mixture protocol")
    parser.add_argument("--problems", type=int, help="for each cell; by default 20, 8 and 4 for d = 8, 80 and 800")
    parser.add_argument(
        "--only", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS), help="these rows alone"
    )
    args = parser.parse_args()
    kept = json.loads(RECORD.read_text())
    if args.table:
        print(table(kept["algorithms"]))
        return
    if args.record and (args.problems or args.cells != list(CELLS) or args.samples != kept["samples"]):
        parser.error("--record stores whole rows: leave out --cells, --problems and --samples.")
    record = {}
    for name in tqdm(args.only, desc="algorithms"):
        if args.record and not args.again and name in kept["algorithms"]:
            record[name] = kept["algorithms"][name]
            continue
        record[name] = measure(name, args.samples, args.cells, args.problems)
        if args.record:
            kept["algorithms"][name] = record[name]
            RECORD.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
