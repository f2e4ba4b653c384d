"""`ambient-solve testbed pool | train | score | submit | board`: a data-curation benchmark for priors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ambient_solve.cli.flags import with_knobs
from ambient_solve.cli.sharing import run_seeds
from ambient_solve.distributed import choose_device, processes
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.knobs import knobs

if TYPE_CHECKING:
    from ambient_solve.testbed.entry import Entry
    from ambient_solve.testbed.pool import Pool, Truth
    from ambient_solve.testbed.recipe import Recipe

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
        seeds = [s for s in self.seeds or range(recipe.seeds) if not _prior(self.out, s).is_file()]
        run_seeds(seeds, [*map(str, again)], self.jobs, lambda seed: train_seed(recipe, pool, entry, self.out, seed))
        if not all(_prior(self.out, s).is_file() for s in range(recipe.seeds)):
            print(f"{shown(self.out)}: seeds that are still missing are trained by another call or process.")
            return 0
        record = _write_train_record(self.out, recipe, pool, self.track)
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
        seeds = [s for s in self.seeds or range(recipe.seeds) if not is_scored(out, s, self.lpips is not None)]
        run_seeds(seeds, again, self.jobs, lambda seed: score_seed(recipe, pool, entry, truth, out, seed, self.lpips))
        if not all(is_scored(out, s, self.lpips is not None) for s in range(recipe.seeds)):
            print(f"{shown(out)}: seeds that are still missing are scored by another call or process.")
            return 0
        rows = {str(s): json.loads(_score(out, s).read_text())["row"] for s in range(recipe.seeds)}
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


def train_seed(recipe: Recipe, pool: Pool, entry: Entry, out: Path, seed: int) -> None:
    """Train the prior of one seed in this process, with one thread on a CPU. The same call resumes.

    Args:
        recipe: Of the scale.
        pool: The pool.
        entry: The entry, whose data are written.
        out: Folder of the run.
        seed: First weights, order and noise.
    """
    from ambient_solve.training.loop import train

    with _one_thread():
        train(_config(recipe, pool, entry, out, seed))


def score_seed(
    recipe: Recipe,
    pool: Pool,
    entry: Entry,
    truth: Truth,
    out: Path,
    seed: int,
    lpips: Path | None = None,
    alone: bool = False,
) -> None:
    """Score the prior of one seed in this process; that of seed 0 draws the sheet of the entry.

    Args:
        recipe: Of the scale.
        pool: The pool.
        entry: The entry.
        truth: With the held-out pictures.
        out: Folder of the run.
        seed: The seed.
        lpips: As for `score_prior`.
        alone: Whether the headline is measured alone, without what stands beside it on a board.
    """
    from ambient_solve.priors.load import load_prior
    from ambient_solve.saving import replace_text
    from ambient_solve.testbed.record import hash_of
    from ambient_solve.testbed.score import headline_alone, score_prior
    from ambient_solve.testbed.sheet import entry_sheet

    with _one_thread():
        prior = load_prior(_prior(out, seed).parent, device=choose_device()).set_precision("float32")
        learned = [s for stage in range(entry.stages) for s in entry.samples(pool, stage)]
        if alone:
            row, drawn = headline_alone(prior, truth.held_out), None
        else:
            row, drawn = score_prior(prior, learned, truth.held_out, recipe, lpips)
        if seed == 0 and drawn is not None:
            title = f"{pool.record['domain']}, scale {recipe.scale}"
            entry_sheet(title, prior, truth.held_out, drawn).save(out / "sheet.png")
    record = {"prior": hash_of(_prior(out, seed).read_bytes()), "row": row}
    replace_text(_score(out, seed), json.dumps(record) + "\n")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as with every seed that has a process of its own: sums in another order are other numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def require_recipe(out: Path, train: dict[str, Any], recipe: Recipe, pool: Pool, entry: Entry) -> None:
    """Refuse a run that was not trained by the recipe, on the entry, or whose weights were changed.

    Args:
        out: Folder of the run.
        train: Its record.
        recipe: What it should have been trained by.
        pool: Its pool.
        entry: What it should have been trained on.

    Raises:
        AmbientSolveError: something differs.
    """
    from ambient_solve.testbed.prepare import RECORD, data_hashes
    from ambient_solve.testbed.record import hash_of, read_record
    from ambient_solve.training.config import NOT_SETTINGS, settings_of

    if train["recipe"] != recipe.hash:
        raise AmbientSolveError(
            f"{out} was trained by another recipe than that of scale {recipe.scale}: train it again."
        )
    expected = {"pool": pool.record["hash"], "entry": read_record(out / RECORD, "entry")["hash"]}
    if train["parents"] != expected:
        raise AmbientSolveError(f"{out} was trained for another pool or entry than it holds: train it again.")
    wanted = data_hashes(entry, pool)
    for seed in range(recipe.seeds):
        folder = out / f"seed-{seed}"
        config = _config(recipe, pool, entry, out, seed)
        settings = {k: v for k, v in settings_of(config).items() if k not in NOT_SETTINGS}
        found = json.loads((folder / "run.json").read_text())
        changed = sorted(k for k in settings if found.get(k) != json.loads(json.dumps(settings[k])))
        if changed:
            raise AmbientSolveError(f"{folder} was trained by another recipe ({', '.join(changed)}): train it again.")
        if [s["samples"] for s in json.loads((folder / "data.json").read_text())] != wanted:
            raise AmbientSolveError(f"{folder} was trained on other pictures than the entry names: train it again.")
        if hash_of(_prior(out, seed).read_bytes()) != train["priors"].get(str(seed)):
            raise AmbientSolveError(f"{_prior(out, seed)} was changed after its training: train it again.")


def _write_train_record(out: Path, recipe: Recipe, pool: Pool, track: str) -> dict[str, Any]:
    from ambient_solve.testbed.prepare import RECORD
    from ambient_solve.testbed.record import hash_of, read_record, write_record

    content = {
        "domain": pool.record["domain"],
        "scale": recipe.scale,
        "track": track,
        "recipe": recipe.hash,
        "priors": {str(s): hash_of(_prior(out, s).read_bytes()) for s in range(recipe.seeds)},
    }
    parents = {"pool": pool.record["hash"], "entry": read_record(out / RECORD, "entry")["hash"]}
    return write_record(out / "train.json", "train", content, parents)


def _config(recipe: Recipe, pool: Pool, entry: Entry, out: Path, seed: int) -> Any:
    """The configuration of one training."""
    from ambient_solve.testbed.prepare import stage_folders
    from ambient_solve.testbed.recipe import training_settings
    from ambient_solve.training.config import Config, make

    settings = training_settings(
        recipe,
        side=pool.side,
        channels=pool.channels,
        stages=stage_folders(entry),
        held_out=entry.validating,
        seed=seed,
    )
    return make(Config, {**settings, "out": str(out / f"seed-{seed}"), "data_root": str(out)}, "The recipe")


def _prior(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}" / "prior" / "model.safetensors"


def _score(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}" / "score.json"


def is_scored(out: Path, seed: int, lpips: bool = False) -> bool:
    """Whether the prior of a seed is scored, and as it is now.

    Args:
        out: Folder of the run.
        seed: The seed.
        lpips: Whether LPIPS must be among the numbers.

    Returns:
        True where it is.
    """
    from ambient_solve.testbed.record import hash_of

    if not _score(out, seed).is_file():
        return False
    record = json.loads(_score(out, seed).read_text())
    restored = record["row"].get("restoration", {}).values()
    same = record["prior"] == hash_of(_prior(out, seed).read_bytes())
    return same and (not lpips or bool(restored) and all("lpips_sample" in task for task in restored))


def _wait_for(path: Path) -> None:
    """Wait for what the first process writes."""
    for _ in range(10 * PATIENCE):
        if path.is_file():
            return
        time.sleep(0.1)
    print(f"The first process has not written {path} in {PATIENCE} seconds.", file=sys.stderr)
