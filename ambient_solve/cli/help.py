"""Pages of --help: what tyro makes of the options, with prose folded to the terminal and an example at the end."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TextIO

WIDTH = 80
"""Columns of a page of help, at most."""
STARTERS = ("accelerate ", "python ", "torchrun ")
"""What a line of a docstring begins with that is a command: a page of help has its own example instead."""
MARGIN = 2
"""Columns that tables and examples are indented by."""
EXAMPLES = {
    "demo": "ambient-solve demo --samples 2 --out demo",
    "restore": "ambient-solve restore photo.png --task inpaint --mask scratches.png",
    "video": "ambient-solve video old.mp4 --task denoise --sigma 0.1 --out new.mp4",
    "sample": "ambient-solve sample photos --n 4 --size 32",
    "corrupt": 'ambient-solve corrupt my_photos/ damaged/ --damage "noise sigma=0.2"',
    "check": "ambient-solve check --algorithm mmps --steps 20",
    "evaluate": 'ambient-solve evaluate my_photos/ --algorithms mmps "proximal steps=25" tv',
    "mri": "ambient-solve mri scan.h5 --samples 4 --out reconstructed",
    "mri-train": "ambient-solve mri-train scans/ --out runs/mri --train",
    "convert": "ambient-solve convert ffhq.pt --kind guided-diffusion --out ffhq",
    "info": "ambient-solve info mmps",
    "app": "ambient-solve app --more-priors runs/own/prior",
    "testbed pool": "ambient-solve testbed pool testbed/photographs --domain photographs",
    "testbed train": (
        "ambient-solve testbed train testbed/photographs entry.jsonl \\\n    --track select --scale xs --out runs/entry"
    ),
    "testbed score": "ambient-solve testbed score testbed/photographs runs/entry",
    "testbed submit": "ambient-solve testbed submit runs/entry --name my-entry --board board",
    "testbed board": "ambient-solve testbed board board --against everything-as-clean",
    "train": "ambient-solve train --config trainers/configs/own.yaml --out runs/own",
    "finetune": (
        "ambient-solve finetune --config trainers/configs/finetune.yaml \\\n    --init photos --out runs/tuned"
    ),
    "em": "ambient-solve em --config trainers/configs/em_masked.yaml \\\n    --data-root DATA --out runs/em",
    "annotate": "ambient-solve annotate --data corrupted:damaged --out table.jsonl",
    "trainers/train.py": (
        "accelerate launch trainers/train.py \\\n    --config trainers/configs/own.yaml --out runs/own"
    ),
    "trainers/finetune.py": (
        "python trainers/finetune.py \\\n    --config trainers/configs/finetune.yaml --init photos --out runs/tuned"
    ),
    "trainers/em.py": (
        "python trainers/em.py --config trainers/configs/em_masked.yaml \\\n    --data-root DATA --out runs/em"
    ),
    "trainers/annotate.py": "python trainers/annotate.py --data corrupted:damaged --out table.jsonl",
    "trainers/export.py": "python trainers/export.py --config trainers/configs/own.yaml --out runs/own",
}
"""An example of each command, and of each file of `trainers/`."""


def started_as() -> str:
    """What was typed before the name of a command: `python -m ambient_solve` or `ambient-solve`."""
    path = Path(sys.argv[0])
    as_module = path.name == "__main__.py" and path.parent.name == "ambient_solve"
    return "python -m ambient_solve" if as_module else "ambient-solve"


def folded(text: str, width: int = WIDTH) -> str:
    """Prose and tables of a docstring, folded.

    Args:
        text: A docstring: paragraphs, and indented lines that each begin with a name, two spaces or more, and what it
            is. Indented commands are left out.
        width: Columns, 20 or more.

    Returns:
        The same words in lines of at most `width` columns; a word that is longer stands alone.
    """
    parts = []
    for kind, lines in groupby(inspect.cleandoc(text).splitlines(), _kind):
        block = list(lines)
        if kind == "prose":
            parts.append(textwrap.fill(" ".join(block), width, break_on_hyphens=False))
        elif kind == "table":
            parts += [_entry(entry, width) for entry in _entries(block) if not entry.startswith(STARTERS)]
        elif parts and parts[-1]:
            parts.append("")
    return "\n".join(parts)


def _command(program: str) -> str:
    """The key of a program in EXAMPLES: its last word, or two words of the testbed."""
    words = program.split()
    return " ".join(words[-2:]) if words[-2:-1] == ["testbed"] else words[-1]


def _kind(line: str) -> str:
    """What a line of a docstring is part of: a blank, a table or prose."""
    return "blank" if not line.strip() else "table" if line.startswith(" ") else "prose"


def _entries(block: list[str]) -> list[str]:
    """The entries of a table: a line at its margin, with the deeper ones that go on."""
    margin, found = len(block[0]) - len(block[0].lstrip()), []
    for line in block:
        if found and line[margin:].startswith(" "):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.strip())
    return found


def _entry(text: str, width: int) -> str:
    """One entry of a table; what does not fit its first line goes on below its second column."""
    name = re.match(r"\S+ {2,}", text)
    hanging = " " * (MARGIN + (name.end() if name else MARGIN))
    return textwrap.fill(text, width, initial_indent=" " * MARGIN, subsequent_indent=hanging, break_on_hyphens=False)


class _Page(io.StringIO):
    """A page of help on its way to `target`, whose colors and characters it has."""

    def __init__(self, target: TextIO) -> None:
        super().__init__()
        self.target = target

    @property
    def encoding(self) -> str:
        return (self.target.encoding or "ascii").lower()  # tyro draws boxes where this is "utf-8", letter by letter

    def isatty(self) -> bool:
        return self.target.isatty()


@contextlib.contextmanager
def help_page(program: str, about: str, config: bool = False) -> Iterator[None]:
    """A context in which options are read: where --help was given, it prints the page.

    The parser is given no description, `description=""`: this function prints it, folded to the terminal.

    Args:
        program: What was typed before the options, such as `ambient-solve restore`.
        about: What the command does: prose and tables, as a docstring has them.
        config: Whether it takes `--config FILE`, which is read before the options.
    """
    page = _Page(sys.stdout)
    try:
        with contextlib.redirect_stdout(page):
            yield
        print(page.getvalue(), end="")
    except SystemExit as stop:
        usage, _, options = page.getvalue().partition("\n\n")
        if stop.code or not options:
            print(page.getvalue(), end="")
            raise
        usage = usage.strip().replace("[-h]", "[-h] [--config FILE.yaml]" if config else "[-h]")
        width = min(WIDTH, max(20, shutil.get_terminal_size().columns))
        usage = textwrap.fill(usage, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        example = textwrap.indent(EXAMPLES[_command(program)], " " * MARGIN)
        print(f"{usage}\n\n{folded(about, width)}\n\n{options.strip()}\n\nexample:\n{example}")
        raise
