"""How exact is each algorithm? Prints the table of docs/exactness.md; `--record` stores what the tests compare with.

python benchmarks/exactness.py --record                    (two hours; an interrupted one goes on where it stopped)
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
    RePaint,
)
from ambient_solve.algorithms.mmps import TIME_TRAVEL_SETTINGS
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.exactness import GAUSSIAN, Exactness, on_gaussian, on_mixture

RECORD = Path(__file__).parents[1] / "tests" / "exactness.json"

ALGORITHMS: dict[str, Algorithm | str] = {
    "auto": "auto",
    "mmps, 100 levels, k = 12": MMPS(steps=100, iterations=12),
    "mmps": MMPS(),
    "mmps, 13 levels taken twice": MMPS(**TIME_TRAVEL_SETTINGS),
    "mmps, published rule": MMPS(covariance_noise=False),
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
SHORT: dict[str, Algorithm | str] = {
    "fps, 50 levels": FPS(steps=50),
    "mgps, 50 levels": MGPS(steps=50),
    "pnpdm, 60 rounds of 12": PnPDM(steps=60, inner_steps=12),
    "reddiff, 200 steps": REDdiff(steps=200),
    "repaint, drawn once": RePaint(resample=1),
    "repaint": RePaint(),
    "sitcom, 20 levels of 10": SITCOM(steps=20, iterations=10),
    "tmpd, 100 levels": TMPD(steps=100),
}
"""What the tests measure on the Gaussian problems in place of settings that take minutes."""
CELLS = {f"{d},{dy}": problems for d, problems in ((8, 20), (80, 8), (800, 4)) for dy in (1, 2, 4)}
"""Dimensions of the unknown and of the measurement, and how many problems."""
LARGE = ("auto", "tds", "mmps", "mmps, 13 levels taken twice", "pigdm", "dps, 200 levels", "proximal")
"""The rows that are measured at d = 800."""


def sizes(algorithm: Algorithm | str) -> dict[str, int]:
    """Samples of each Gaussian measurement, and measurements: few with many particles where these interact."""
    if isinstance(algorithm, TDS):
        return {"n": 32, "problems": 4}  # a vector-Jacobian product for each number measured
    interacting = not isinstance(algorithm, str) and algorithm.interacting
    return {"n": 128, "problems": 8} if interacting else {"n": 32, "problems": 32}


def on_gaussians(name: str) -> dict[str, dict]:
    """Distances of one row from the exact posteriors; operators that the algorithm refuses are left out."""
    algorithm, found = (ALGORITHMS | SHORT)[name], {}
    for op in GAUSSIAN:
        try:
            found[op] = dataclasses.asdict(on_gaussian(algorithm, op, **sizes(algorithm)))
        except AmbientSolveError:
            continue
    return found


def on_mixtures(name: str, cell: str, problems: int | None) -> list[tuple[float, float]]:
    """Distance and floor of each problem of a cell."""
    d, dy = map(int, cell.split(","))
    return on_mixture(ALGORITHMS[name], d, dy, range(problems or CELLS[cell]))


def table(record: dict[str, dict]) -> str:
    """The rows in markdown: the Gaussian problems, then the mixtures."""
    cells = [cell for cell in CELLS if any(cell in row["mixture"] for row in record.values())]
    lines = [
        f"| algorithm | bias | variance | distance / floor | {' | '.join(cells)} |",
        "|---" * (4 + len(cells)) + "|",
    ]
    for name in (name for name in ALGORITHMS if name in record):
        rows, mixture = [Exactness.read(r) for r in record[name]["gaussian"].values()], record[name]["mixture"]
        ratios = [r.ratio.value for r in rows]
        away = max(r.distance.value / r.floor.value for r in rows)
        means = [f"{statistics.mean(w for w, _ in mixture[c]):.2f}" if c in mixture else "" for c in cells]
        lines.append(
            f"| {name} | {max(r.bias for r in rows):.2f} | {min(ratios):.2f} - {max(ratios):.2f} | {away:.2f} | "
            f"{' | '.join(means)} |"
        )
    exact = next((row for row in record.values() if all(cell in row["mixture"] for cell in cells)), {"mixture": {}})
    floors = [f"{statistics.mean(f for _, f in row):.2f}" for row in exact["mixture"].values()]
    lines.append(f"| *exact samples* | 0.00 | 1.00 | 1.00 | {' | '.join(floors)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"keep each row in {RECORD.name}")
    parser.add_argument("--again", action="store_true", help="with --record: also the rows that are recorded")
    parser.add_argument("--table", action="store_true", help="only print what has been recorded")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), help="of the mixture protocol")
    parser.add_argument("--problems", type=int, help="for each cell; by default 20, 8 and 4 for d = 8, 80 and 800")
    parser.add_argument(
        "--only", nargs="+", choices=[*ALGORITHMS, *SHORT], default=[*SHORT, *ALGORITHMS], help="these rows alone"
    )
    args = parser.parse_args()
    kept = json.loads(RECORD.read_text())
    if args.table:
        print(table(kept["algorithms"]))
        return
    if args.record and (args.problems or args.cells != list(CELLS)):
        parser.error("--record stores whole rows: leave out --cells and --problems.")
    record = kept["algorithms"] if args.record else {}
    if args.again:
        record = {name: row for name, row in record.items() if name not in args.only}

    def keep() -> None:
        if args.record:
            RECORD.write_text(json.dumps({"algorithms": record}, indent=1) + "\n")

    # The Gaussian problems first: they are what the tests need, and take minutes.
    for name in tqdm([name for name in args.only if name not in record], desc="Gaussians"):
        record[name] = {"gaussian": on_gaussians(name), "mixture": {}}
        keep()
    rows = [name for name in args.only if name in ALGORITHMS]
    todo = [(name, cell) for cell in args.cells for name in rows if cell.split(",")[0] != "800" or name in LARGE]
    for name, cell in tqdm([(n, c) for n, c in todo if c not in record[n]["mixture"]], desc="mixtures"):
        record[name]["mixture"][cell] = on_mixtures(name, cell, args.problems)
        keep()
    print(table({name: record[name] for name in ALGORITHMS if name in record and name in args.only}))


if __name__ == "__main__":
    main()
