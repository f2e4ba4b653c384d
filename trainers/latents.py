"""Encode pictures into latents once, for a latent prior to be trained on, and put the finished prior together.

    python trainers/latents.py encode --data faces.npz --autoencoder taef2.safetensors --out runs/faces-latents
    python trainers/latents.py assemble --prior runs/faces-latent/prior --latents runs/faces-latents

What it does is `ambient_solve.training.latents`.
"""

from __future__ import annotations

import sys

import tyro

from ambient_solve.errors import AmbientSolveError
from ambient_solve.training.latents import assemble, encode_pictures


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict({"encode": encode_pictures, "assemble": assemble})
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
