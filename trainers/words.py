"""A small pipeline of words and latents: the start of its training, and a sheet of what it draws.

    python trainers/words.py start --latents runs/words-latents --vocabulary clip_merges.txt.gz --out runs/words-start
    python trainers/words.py sheet --prior runs/words/prior --prompts "a photo of a goldfish" "a photo of a bullfrog"

What it does is `ambient_solve.training.words`; trainers/finetune.py trains it by trainers/configs/words_latent.yaml.
"""

from __future__ import annotations

import sys

import tyro

from ambient_solve.errors import AmbientSolveError
from ambient_solve.training.words import sheet, start_pipeline


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        print(tyro.extras.subcommand_cli_from_dict({"start": start_pipeline, "sheet": sheet}))
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
