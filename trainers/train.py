"""Train a diffusion prior: the door of `accelerate launch`, the same as `ambient-solve train`.

    accelerate launch trainers/train.py --config trainers/configs/photos.yaml --out runs/photos
    python trainers/train.py --config trainers/configs/photos.yaml --out runs/photos --images 64000

The loop is `ambient_solve.training.loop`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.train import train_command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    train_command(sys.argv[1:], "python trainers/train.py")


if __name__ == "__main__":
    main()
