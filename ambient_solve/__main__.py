"""`python -m ambient_solve ...` is `ambient-solve ...`; `torchrun -m ambient_solve restore ...` shares its work."""

from __future__ import annotations

import sys

from ambient_solve.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
