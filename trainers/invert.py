"""Learn a subject from a few pictures, as a word for prompts: the same as `ambient-solve invert`.

    python trainers/invert.py my_cat/ --pipeline my_pipeline/ --token "<cat>" --init cat --out runs/cat

The loop is `ambient_solve.training.inversion`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.dispatch import main as command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    sys.exit(command(["invert", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
