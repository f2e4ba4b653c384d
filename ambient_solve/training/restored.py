"""A folder of restored pictures, in the format of damaged ones, that an interrupted E-step goes on filling.

Each draw is a file of its own, renamed into place when it is complete, and the manifest is written last: a folder
without one is unfinished. What is drawn depends on (seed, picture, draw) alone, and the batches are always the same, so
that a resumed E-step equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ambient_solve.data.corruption import MANIFEST, RUN, levels_in_two_units
from ambient_solve.data.sample import Sample
from ambient_solve.data.units import with_picture_units
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.base import Prior
from ambient_solve.saving import reach_disk, replace_text, save_tensors
from ambient_solve.training.expectation import Expectation, incomplete


def write_restored(
    samples: Sequence[Sample],
    folder: Path,
    method: Expectation,
    prior: Prior,
    *,
    draws: int,
    batch: int,
    seed: tuple[int, ...],
    record: dict[str, Any],
    title: str,
    origin: dict[str, Any] | None = None,
) -> None:
    """Write restorations of damaged samples into a folder; samples that need none are written as they are.

    Args:
        samples: Damaged or not.
        folder: Where to; one that is unfinished is gone on with.
        method: How a posterior sample is drawn.
        prior: Under which prior.
        draws: Restorations of each sample.
        batch: Pictures that are restored together.
        seed: What the draws depend on, beside the picture and the number of the draw.
        record: Where the restorations come from, kept in their rows of the manifest.
        title: Of the progress bar.
        origin: What was done to the samples before, kept in corruption.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = batches(samples, method, draws, batch)
    with tqdm(total=sum(map(len, chunks)), desc=title, unit="img") as bar:
        for chunk in chunks:
            if not all((folder / file_of(i, d)).is_file() for i, d in chunk):
                seeds = [_integer((*seed, i, d)) for i, d in chunk]
                z = method.draw(prior, [samples[i] for i, _ in chunk], seeds)
                _save(z, [folder / file_of(i, d) for i, d in chunk])
            bar.update(len(chunk))
    rows = []
    for i, sample in enumerate(samples):
        restored = method.restores(sample)
        if not restored:
            _save(sample.z[None], [folder / file_of(i, 0)])
        for d in range(draws):  # A sample that is kept counts as often as the others: the shares of the mixture stay.
            row = {"file": file_of(i, d if restored else 0), "name": sample.name}
            row["sigma_noise"] = 0.0 if restored else sample.sigma_noise
            row["sigma_min"] = method.sigma_min(sample) if restored else sample.sigma_min
            row |= {"sigma_max": sample.sigma_max, "damage": "restored" if restored else sample.damage}
            if restored:
                row["restored"] = {**record, **method.settings, "draw": d, **_damage(sample)}
            rows.append(with_picture_units(row, levels_in_two_units(sample.z)))
    if origin is not None:
        replace_text(folder / RUN, json.dumps(origin, indent=1) + "\n")
    replace_text(folder / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))


def batches(samples: Sequence[Sample], method: Expectation, draws: int, size: int) -> list[list[tuple[int, int]]]:
    """What a method is to restore, in batches of one shape and kind.

    Args:
        samples: All samples.
        method: Decides which of them it restores.
        draws: Restorations of each.
        size: Most entries of a batch.

    Returns:
        Batches of (index of the sample, number of the draw).
    """
    groups: dict[Any, list[tuple[int, int]]] = {}
    for i, sample in enumerate(samples):
        if method.restores(sample):
            kind = tuple(sample.z.shape), sample.signs is None, sample.maps is not None and len(sample.maps)
            groups.setdefault(kind, []).extend((i, d) for d in range(draws))
    return [group[k : k + size] for group in groups.values() for k in range(0, len(group), size)]


def file_of(index: int, draw: int) -> str:
    """The file of one posterior sample of one picture.

    Args:
        index: Number of the picture.
        draw: Number of the posterior sample.

    Returns:
        The name of a file.
    """
    return f"{index:06d}-{draw}.safetensors"


def _damage(sample: Sample) -> dict[str, Any]:
    """What the measurement was, for the manifest."""
    observed = float(sample.mask.float().mean()) if incomplete(sample) else 1.0
    return {"of": sample.damage, "sigma_noise": sample.sigma_noise, "observed": round(observed, 4)}


def _integer(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _save(z: Tensor, files: list[Path]) -> None:
    z = z.detach().half().cpu()
    if not bool(torch.isfinite(z).all()):
        raise AmbientSolveError(
            f"A restoration in {files[0].parent} is not finite: the algorithm diverged under this prior. Take more "
            "steps, a larger floor, or the algorithm 'mmps'."
        )
    for row, file in zip(z, files, strict=True):
        part = file.with_suffix(".part")
        save_tensors({"z": row.contiguous()}, part)
        reach_disk(part)
        part.rename(file)
