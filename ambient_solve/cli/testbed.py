"""`ambient-solve testbed pool | train | score | submit | board`: a data-curation benchmark for priors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from ambient_solve.cli.flags import with_knobs
from ambient_solve.cli.seeds import (
    is_scored,
    prior_file,
    require_recipe,
    score_file,
    score_seed,
    train_seed,
    write_train_record,
)
from ambient_solve.cli.sharing import run_seeds
from ambient_solve.distributed import processes
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.knobs import knobs

PATIENCE = 600
"""Seconds that a process waits for the first one to write the data of an entry."""
PoolFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="POOL", help_behavior_hint="")]
Repeated = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="DATA", help_behavior_hint="(may be repeated)")
]


@dataclasses.dataclass(frozen=True)
class MakePool:
    """Make a pool of pictures, damaged once: known shares of clean and of bad ones, whose truth is sealed.

    OUT/pool and OUT/pool.json are for participants, OUT/sealed is for whoever scores them. Without --data it works
    offline, with pictures that scikit-image ships. For a competition give a random --seed of 18 digits.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
    """Folder of the pool; must not hold one."""
    domain: Annotated[str, tyro.conf.arg(metavar="photographs|faces|brain-scans")] = "photographs"
    """What the pictures are of."""
    data: Repeated = ()
    """Folder or .npz pack of clean pictures of the domain; without any, those that are shipped."""
    foreign_data: Repeated = ()
    """Folder or .npz pack of pictures of another domain; without any, those that are shipped."""
    side: int = 24
    """Side of the pictures in pixels, a multiple of 8."""
    held_out: int = 48
    """Pictures that are kept out of the pool to score on."""
    limit: int = 0
    """At most this many pictures of the domain, drawn at random; 0 is all."""
    seed: int = 0
    """Decides which picture is what, and all damage; who knows it can undo the noise."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.data.images import shuffled
        from ambient_solve.testbed.domains import gather_pictures
        from ambient_solve.testbed.pool import Shares, make_pool

        if self.side < 8 or self.side % 8 or self.seed < 0 or self.limit < 0:
            raise AmbientSolveError(
                f"--side {self.side}, --seed {self.seed}, --limit {self.limit}: a multiple of 8, and 0 or more, were "
                "expected."
            )
        pictures, foreign = gather_pictures(self.domain, self.side, self.data, self.foreign_data)
        pictures = shuffled(pictures, 0)[: self.limit or None]
        shares = Shares(**{k.name: getattr(self, k.name) for k in knobs(Shares)})
        record = make_pool(
            self.out, self.domain, pictures, foreign, shares=shares, held_out=self.held_out, seed=self.seed
        )
        kinds = ", ".join(f"{n} {kind}" for kind, n in record["kinds"].items())
        print(f"{shown(self.out)}: {record['pictures']} pictures ({kinds}), {record['held_out']} held out")
        return 0


def pool_command() -> type:
    """`MakePool` with the shares of the kinds."""
    from ambient_solve.testbed.pool import Shares

    return with_knobs(MakePool, knobs(Shares))


@dataclasses.dataclass(frozen=True)
class TrainEntry:
    """Train the priors of an entry by the frozen recipe of a scale, one for each seed. The same command resumes.

    Seeds share the cores, or the processes of torchrun and accelerate launch; each trains with one thread on a CPU, so
    that the weights are the same, bit for bit, however many there are.
    """

    pool: PoolFolder
    """Folder of the pool."""
    entry: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ENTRY", help_behavior_hint="")]
    """Table of the entry, NAME.jsonl; a folder or pack of pictures with --track bring."""
    out: Path = Path("testbed-run")
    """Folder of the run."""
    track: Annotated[str, tyro.conf.arg(metavar="select|annotate|bring")] = "select"
    """What the entry decides."""
    scale: Annotated[str, tyro.conf.arg(metavar="xxs|xs|s|m|l")] = "xs"
    """How many pictures are seen, by a network of which size."""
    jobs: int = 0
    """Trainings at once; 0 is one for each core or graphics card."""
    seeds: tuple[int, ...] = ()
    """Train these alone, and leave the others to further calls; none given is all."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.testbed.entry import read_entry, refuse_test_pictures
        from ambient_solve.testbed.pool import is_sealed_here, read_pool, read_truth
        from ambient_solve.testbed.prepare import RECORD, write_data
        from ambient_solve.testbed.recipe import recipe_of

        recipe, pool = recipe_of(self.scale), read_pool(self.pool)
        entry = read_entry(self.entry, pool, self.track)
        if is_sealed_here(pool):
            refuse_test_pictures(entry, read_truth(pool))
        rank, _, _ = processes(os.environ)
        if rank:
            _wait_for(self.out / RECORD)
        write_data(entry, pool, self.out)
        if self.seeds and not set(self.seeds) <= set(range(recipe.seeds)):
            raise AmbientSolveError(f"--seeds {self.seeds} was given; scale {self.scale} has 0 to {recipe.seeds - 1}.")
        again = ["train", self.pool, self.entry, "--out", self.out, "--track", self.track, "--scale", self.scale]
        seeds = [s for s in self.seeds or range(recipe.seeds) if not prior_file(self.out, s).is_file()]
        run_seeds(seeds, [*map(str, again)], self.jobs, lambda seed: train_seed(recipe, pool, entry, self.out, seed))
        if not all(prior_file(self.out, s).is_file() for s in range(recipe.seeds)):
            print(f"{shown(self.out)}: seeds that are still missing are trained by another call or process.")
            return 0
        record = write_train_record(self.out, recipe, pool, self.track)
        print(f"{shown(self.out)}: {recipe.seeds} priors of scale {recipe.scale}, record {record['hash'][:8]}")
        return 0


@dataclasses.dataclass(frozen=True)
class ScoreRun:
    """Score the priors of a run on the held-out pictures of its pool, whose sealed part must be here."""

    pool: PoolFolder
    """Folder of the pool, with what is sealed."""
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder of the run, as `ambient-solve testbed train` wrote it."""
    lpips: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Safetensors file of torchvision's AlexNet features, to measure LPIPS too; needs the package lpips."""
    jobs: int = 0
    """Seeds at once; 0 is one for each core or graphics card."""
    seeds: tuple[int, ...] = ()
    """Score these alone, and leave the others to further calls; none given is all."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.testbed.entry import refuse_test_pictures
        from ambient_solve.testbed.pool import read_pool, read_truth
        from ambient_solve.testbed.prepare import entry_of_run
        from ambient_solve.testbed.recipe import recipe_of
        from ambient_solve.testbed.record import read_record, write_record
        from ambient_solve.testbed.score import summarize

        out, pool = self.run_folder, read_pool(self.pool)
        truth, train = read_truth(pool), read_record(self.run_folder / "train.json", "train")
        recipe = recipe_of(train["scale"])
        entry = entry_of_run(out, pool)
        refuse_test_pictures(entry, truth)
        require_recipe(out, train, recipe, pool, entry)
        again = ["score", str(self.pool), str(out), *(["--lpips", str(self.lpips)] if self.lpips else [])]
        seeds = [s for s in self.seeds or range(recipe.seeds) if not is_scored(out, s, lpips=self.lpips is not None)]
        run_seeds(seeds, again, self.jobs, lambda seed: score_seed(recipe, pool, entry, truth, out, seed, self.lpips))
        if not all(is_scored(out, s, lpips=self.lpips is not None) for s in range(recipe.seeds)):
            print(f"{shown(out)}: seeds that are still missing are scored by another call or process.")
            return 0
        rows = {str(s): json.loads(score_file(out, s).read_text())["row"] for s in range(recipe.seeds)}
        summary = summarize(rows)
        parents = {"train": train["hash"], "pool": pool.record["hash"]}
        record = write_record(out / "score.json", "score", {"seeds": rows, "summary": summary}, parents)
        low, high = summary["low"], summary["high"]
        print(
            f"{shown(out)}: {summary['headline']:.3f} dB ({low:.3f} to {high:.3f} over {len(rows)} seeds), record "
            f"{record['hash'][:8]}"
        )
        return 0


@dataclasses.dataclass(frozen=True)
class SubmitRun:
    """Put a scored run on a board, under a name."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder of the run, trained and scored."""
    name: str
    """Name of the entry, unlike the others of its table."""
    board: Path = Path("board")
    """Folder of the board; made where it is missing."""
    author: str = "anonymous"
    """Who entered it."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.testbed.board import SHEETS, sheet_name, submit_entry, write_board
        from ambient_solve.testbed.record import read_record

        train = read_record(self.run_folder / "train.json", "train")
        row = submit_entry(
            self.board, self.name, self.author, train, read_record(self.run_folder / "score.json", "score")
        )
        (self.board / SHEETS).mkdir(exist_ok=True)
        if (self.run_folder / "sheet.png").is_file():
            shutil.copyfile(self.run_folder / "sheet.png", self.board / SHEETS / f"{sheet_name(row)}.png")
        write_board(self.board)
        print(f"{shown(self.board)}: {self.name} has {row['summary']['headline']:.3f} dB")
        return 0


@dataclasses.dataclass(frozen=True)
class ShowBoard:
    """Write a board as board.md and as board.html, one file with tables that sort and the sheets of the entries."""

    board: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BOARD", help_behavior_hint="")]
    """Folder of the board."""
    against: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ""
    """Entry that the others are compared with; by default everything-as-clean, or the last of a table."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.testbed.board import write_board

        table, page = write_board(self.board, self.against)
        print(table.read_text())
        print(f"The page is {shown(page)}.")
        return 0


def _wait_for(path: Path) -> None:
    """Wait for what the first process writes."""
    for _ in range(10 * PATIENCE):
        if path.is_file():
            return
        time.sleep(0.1)
    print(f"The first process has not written {path} in {PATIENCE} seconds.", file=sys.stderr)
