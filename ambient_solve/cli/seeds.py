"""What the commands of the testbed do with one seed of a run: train its prior, score it, and check that it is right."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from ambient_solve.testbed.entry import Entry
    from ambient_solve.testbed.pool import Pool, Truth
    from ambient_solve.testbed.recipe import Recipe


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
        train(seed_config(recipe, pool, entry, out, seed))


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
        prior = load_prior(prior_file(out, seed).parent, device=choose_device()).set_precision("float32")
        learned = [s for stage in range(entry.stages) for s in entry.samples(pool, stage)]
        if alone:
            row, drawn = headline_alone(prior, truth.held_out), None
        else:
            row, drawn = score_prior(prior, learned, truth.held_out, recipe, lpips)
        if seed == 0 and drawn is not None:
            title = f"{pool.record['domain']}, scale {recipe.scale}"
            entry_sheet(title, prior, truth.held_out, drawn).save(out / "sheet.png")
    record = {"prior": hash_of(prior_file(out, seed).read_bytes()), "row": row}
    replace_text(score_file(out, seed), json.dumps(record) + "\n")


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
        config = seed_config(recipe, pool, entry, out, seed)
        settings = {k: v for k, v in settings_of(config).items() if k not in NOT_SETTINGS}
        found = json.loads((folder / "run.json").read_text())
        changed = sorted(k for k in settings if found.get(k) != json.loads(json.dumps(settings[k])))
        if changed:
            raise AmbientSolveError(f"{folder} was trained by another recipe ({', '.join(changed)}): train it again.")
        if [s["samples"] for s in json.loads((folder / "data.json").read_text())] != wanted:
            raise AmbientSolveError(f"{folder} was trained on other pictures than the entry names: train it again.")
        if hash_of(prior_file(out, seed).read_bytes()) != train["priors"].get(str(seed)):
            raise AmbientSolveError(f"{prior_file(out, seed)} was changed after its training: train it again.")


def write_train_record(out: Path, recipe: Recipe, pool: Pool, track: str) -> dict[str, Any]:
    """Write train.json, once all seeds are trained.

    Args:
        out: Folder of the run.
        recipe: What it was trained by.
        pool: Its pool.
        track: Of its entry.

    Returns:
        The record.
    """
    from ambient_solve.testbed.prepare import RECORD
    from ambient_solve.testbed.record import hash_of, read_record, write_record

    content = {
        "domain": pool.record["domain"],
        "scale": recipe.scale,
        "track": track,
        "recipe": recipe.hash,
        "priors": {str(s): hash_of(prior_file(out, s).read_bytes()) for s in range(recipe.seeds)},
    }
    parents = {"pool": pool.record["hash"], "entry": read_record(out / RECORD, "entry")["hash"]}
    return write_record(out / "train.json", "train", content, parents)


def seed_config(recipe: Recipe, pool: Pool, entry: Entry, out: Path, seed: int) -> Any:
    """The configuration of one training, a `training.config.Config`.

    Args:
        recipe: Of the scale.
        pool: The pool.
        entry: The entry.
        out: Folder of the run.
        seed: The seed.

    Returns:
        The configuration.
    """
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


def prior_file(out: Path, seed: int) -> Path:
    """The weights of the prior of a seed.

    Args:
        out: Folder of the run.
        seed: The seed.

    Returns:
        The file, which is written last.
    """
    return out / f"seed-{seed}" / "prior" / "model.safetensors"


def score_file(out: Path, seed: int) -> Path:
    """What the prior of a seed was scored.

    Args:
        out: Folder of the run.
        seed: The seed.

    Returns:
        The file.
    """
    return out / f"seed-{seed}" / "score.json"


def is_scored(out: Path, seed: int, *, whole: bool = True, lpips: bool = False) -> bool:
    """Whether the prior of a seed is scored, and as it is now.

    Args:
        out: Folder of the run.
        seed: The seed.
        whole: Whether more than the headline must be there.
        lpips: Whether LPIPS must be among the numbers.

    Returns:
        True where it is.
    """
    from ambient_solve.testbed.record import hash_of

    if not score_file(out, seed).is_file():
        return False
    record = json.loads(score_file(out, seed).read_text())
    tasks = list(record["row"].get("restoration", {}).values())
    same = record["prior"] == hash_of(prior_file(out, seed).read_bytes())
    return same and (bool(tasks) or not (whole or lpips)) and (not lpips or all("lpips_sample" in t for t in tasks))
