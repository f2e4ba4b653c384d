"""Learn a prior from damaged pictures alone: the same as `ambient-solve em`.

    python trainers/em.py --config trainers/configs/em_masked.yaml --data-root DATA --out runs/em
    python trainers/em.py --config trainers/configs/em_masked.yaml --data-root DATA --out runs/em --init runs/a/prior

The loop is `ambient_solve.training.em`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.train import em_command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    em_command(sys.argv[1:], "python trainers/em.py")


if __name__ == "__main__":
    main()
