"""How exact is each algorithm? Prints the table of the README; `--record` stores the values that the tests hold it to.

python benchmarks/exactness.py
python benchmarks/exactness.py --record
python benchmarks/exactness.py --only mmps --seeds 20
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from tqdm import tqdm

from ambient_solve import DAPS, DDNM, DPS, MMPS, TDS, PiGDM, Proximal
from ambient_solve.evaluate.exactness import GAUSSIAN, on_gaussian, on_mixture

RECORD = Path(__file__).parents[1] / "tests" / "exactness.json"

ALGORITHMS = {
    "mmps, 100 levels, k = 12": MMPS(steps=100, iterations=12),
    "mmps": MMPS(),
    "mmps, published rule": MMPS(spread=False),
    "tds": TDS(),
    "pigdm": PiGDM(),
    "proximal": Proximal(),
    "diffpir": Proximal.diffpir(),
    "dds": Proximal.dds(),
    "flower": Proximal.flower(),
    "ddnm": DDNM(),
    "daps": DAPS(),
    "dps, 200 levels": DPS(steps=200),
}
CELLS = ((8, 1), (8, 2), (8, 4), (80, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--samples", type=int, default=500, help="samples for each Gaussian problem")
    parser.add_argument("--seeds", type=int, default=8, help="problems for each cell of the mixture protocol")
    parser.add_argument("--only", nargs="+", choices=list(ALGORITHMS), help="these rows alone; they are not recorded")
    args = parser.parse_args()
    if args.only and args.record:
        parser.error("--record stores every row: leave out --only.")
    algorithms = {name: ALGORITHMS[name] for name in args.only or ALGORITHMS}

    record: dict[str, dict] = {}
    for name, algorithm in tqdm(algorithms.items(), desc="algorithms"):
        gaussian = {op: dataclasses.asdict(on_gaussian(algorithm, op, args.samples)) for op in GAUSSIAN}
        mixture = {f"{d},{dy}": on_mixture(algorithm, d, dy, range(args.seeds)) for d, dy in CELLS}
        record[name] = {"gaussian": gaussian, "mixture": mixture}
    if args.record:
        RECORD.write_text(json.dumps({"samples": args.samples, "algorithms": record}, indent=1) + "\n")

    cells = [f"{d},{dy}" for d, dy in CELLS]
    print(f"| algorithm | bias | variance | distance / floor | {' | '.join(cells)} |")
    print("|" + "---|" * (4 + len(cells)))
    for name, row in record.items():
        rows = list(row["gaussian"].values())
        worst = max(r["bias"] for r in rows)
        ratios = [r["ratio"] for r in rows]
        away = max(r["distance"] / r["floor"] for r in rows)
        means = [sum(w for w, _ in row["mixture"][c]) / args.seeds for c in cells]
        print(
            f"| {name} | {worst:.2f} | {min(ratios):.2f} - {max(ratios):.2f} | {away:.1f} | "
            + " | ".join(f"{m:.2f}" for m in means)
            + " |"
        )
    exact = next(iter(record.values()))
    bias = max(r["floor_bias"] for r in exact["gaussian"].values())
    floors = [sum(f for _, f in exact["mixture"][c]) / args.seeds for c in cells]
    print(f"| *exact samples* | {bias:.2f} | 1.00 | 1.0 | " + " | ".join(f"{f:.2f}" for f in floors) + " |")


if __name__ == "__main__":
    main()
