"""Fine-tune a prior that there is: the door of `accelerate launch`, the same as `ambient-solve finetune`.

    accelerate launch trainers/finetune.py --config trainers/configs/finetune.yaml --init photos --out runs/tuned
    python trainers/finetune.py --config trainers/configs/finetune.yaml --init my_pipeline/ --out runs/tuned

What it does is `ambient_solve.training.finetune`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.train import finetune_command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    finetune_command(sys.argv[1:], "python trainers/finetune.py")


if __name__ == "__main__":
    main()
