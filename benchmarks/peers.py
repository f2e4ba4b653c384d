"""How exact are the samplers of deepinv 0.5 and azula? The tables of benchmarks/exactness.py, for them.

    pip install -e ".[bench]"
    python benchmarks/peers.py --out runs/peers.jsonl
    python benchmarks/peers.py --out runs/peers.jsonl --only "azula MMPS" --points 250

All take 100 levels and draw their samples as one batch (benchmarks/adapters.py). Our rows are those of
tests/exactness.json. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from adapters import PEERS
from ambient_solve.evaluate.exactness import GAUSSIAN, Exactness, gaussian_operator, on_gaussian, on_mixture
from exactness import CELLS as ALL

RECORD = Path(__file__).parents[1] / "tests" / "exactness.json"
CELLS = {cell: problems for cell, problems in ALL.items() if not cell.startswith("800")}
"""As many problems as for ours; d = 800 takes minutes for each of them."""
SPANS = {"gaussian": 2.0, "mixture": 20.0}
"""Largest entry of z in the data: four deviations of the Gaussian, the outermost mean of the mixture and four."""


def measure(name: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Both tables of one peer, in the form of tests/exactness.json; None in a cell that it cannot do."""
    peer = PEERS[name]
    points, problems = sizes["points"], sizes["problems"]
    draws = {kind: peer.draw(span) for kind, span in SPANS.items()}
    exact = {"n": sizes["samples"], "problems": sizes["truths"]}
    row = {
        "gaussian": {
            op: None if peer.refuses(gaussian_operator(op)) else asdict(on_gaussian(draws["gaussian"], op, **exact))
            for op in GAUSSIAN
        },
        "mixture": {
            cell: None if peer.spectral else on_mixture(draws["mixture"], *_cell(cell), range(problems or n), points)
            for cell, n in CELLS.items()
        },
    }
    return {"peer": name, "sizes": sizes, **row}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown. Mixture cells are mean distance (mean floor): the floor falls with the number of samples."""
    head = ["sampler", *(f"{op}: bias, variance, distance / floor" for op in GAUSSIAN)]
    head += [f"mixture {cell} (floor)" for cell in CELLS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        cells = [_gaussian_cell(row["gaussian"].get(op)) for op in GAUSSIAN]
        cells += [_mixture_cell(row["mixture"].get(cell)) for cell in CELLS]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _cell(text: str) -> tuple[int, int]:
    d, dy = text.split(",")
    return int(d), int(dy)


def _gaussian_cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    e = Exactness.read(found)
    return f"{e.bias:.2f}, {e.ratio.value:.2f}, {e.distance.value / e.floor.value:.1f}"


def _mixture_cell(found: list[list[float]] | None) -> str:
    return "" if found is None else "{:.2f} ({:.2f})".format(*np.mean(found, 0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of rows; those already there are not run again")
    parser.add_argument("--samples", type=int, default=32, help="samples of each measurement of a Gaussian")
    parser.add_argument("--truths", type=int, default=8, help="truths of each Gaussian problem that are measured")
    parser.add_argument("--points", type=int, default=1000, help="samples for each mixture problem")
    parser.add_argument("--problems", type=int, default=0, help="for each cell of the mixtures; by default as for ours")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    args = parser.parse_args(arguments)
    sizes = {"samples": args.samples, "truths": args.truths, "points": args.points, "problems": args.problems}
    for name in tqdm(args.only, desc="peers"):
        if name not in _rows(args.out, sizes):
            line = json.dumps(measure(name, sizes))
            with args.out.open("a") as file:
                file.write(line + "\n")
    measured = _rows(args.out, sizes)
    rows = {name: measured[name] for name in PEERS if name in measured}
    ours = json.loads(RECORD.read_text())["algorithms"]
    print(table(rows | {f"ours: {name}": row for name, row in ours.items()}))


def _rows(path: Path, sizes: dict[str, int]) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {row["peer"]: row for row in rows if row["sizes"] == sizes}


if __name__ == "__main__":
    main()
