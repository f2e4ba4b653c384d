"""The page that restores pictures: `python apps/restore.py`, the same as `ambient-solve app`."""

from __future__ import annotations

import sys

from ambient_solve.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
