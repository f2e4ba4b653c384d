"""Find out at which noise levels damaged pictures may be used: the same as `ambient-solve annotate`.

    python trainers/annotate.py --data corrupted:FOLDER --out table.jsonl
    python trainers/annotate.py --data corrupted:FOLDER --out ranks.jsonl --method classifier --against table.jsonl

The methods are those of `ambient_solve.training.annotate`.
"""

from __future__ import annotations

import sys

from ambient_solve.cli.train import annotate_command


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    annotate_command(sys.argv[1:], "python trainers/annotate.py")


if __name__ == "__main__":
    main()
