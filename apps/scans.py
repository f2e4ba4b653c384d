"""Reconstruct undersampled scans: `python apps/scans.py SCAN ...`, the same as `ambient-solve mri SCAN ...`."""

from __future__ import annotations

import sys

from ambient_solve.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["mri", *sys.argv[1:]]))
