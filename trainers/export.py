"""Write the averaged weights of a run's latest checkpoint as a prior with its model card, into OUT/prior.

    python trainers/export.py --config trainers/configs/photos.yaml --data-root DATA --out runs/photos

What it does is `ambient_solve.training.export`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.train import export_command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    export_command(sys.argv[1:], "python trainers/export.py")


if __name__ == "__main__":
    main()
