"""How exact is each algorithm? Prints the table of the README; `--record` stores the values that the tests hold it to.

python benchmarks/exactness.py
python benchmarks/exactness.py --record
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
    "mmps, converged": MMPS(steps=100, iterations=12),
    "mmps": MMPS(steps=25, iterations=3),
    "mmps, published rule": MMPS(steps=25, iterations=3, spread=False),
    "tds": TDS(steps=100),
    "pigdm": PiGDM(steps=100),
    "proximal": Proximal(steps=50),
    "diffpir": Proximal.diffpir(steps=100),
    "dds": Proximal.dds(steps=50),
    "flower": Proximal.flower(steps=100),
    "ddnm": DDNM(steps=100),
    "daps": DAPS(steps=50),
    "dps": DPS(steps=200),
}
CELLS = ((8, 1), (8, 2), (8, 4), (80, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--samples", type=int, default=500, help="samples for each Gaussian problem")
    parser.add_argument("--seeds", type=int, default=4, help="problems for each cell of the mixture protocol")
    args = parser.parse_args()

    record: dict[str, dict] = {}
    for name, algorithm in tqdm(ALGORITHMS.items(), desc="algorithms"):
        gaussian = {op: dataclasses.asdict(on_gaussian(algorithm, op, args.samples)) for op in GAUSSIAN}
        moments = dataclasses.replace(algorithm, iterations=8) if isinstance(algorithm, MMPS) else algorithm
        mixture = {f"{d},{dy}": on_mixture(moments, d, dy, range(args.seeds)) for d, dy in CELLS}
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
    floors = [sum(f for _, f in record["tds"]["mixture"][c]) / args.seeds for c in cells]
    print("| *exact samples* | 0.2 | 1.00 | 1.0 | " + " | ".join(f"{f:.2f}" for f in floors) + " |")


if __name__ == "__main__":
    main()
