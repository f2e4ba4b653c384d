"""Damage a data set once, keep what was done to it, and forget the clean pictures.

Which pictures stay clean depends on the seed and their number, the noise of picture `i` on (seed, i) alone: reading the
data again, in any order, in any process, gives the same damage, and no later view of a picture can average its noise
away.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Corruption:
    """Gaussian noise on all but a share of the pictures."""

    sigma_noise: float = knob(0.2, 0.0, 100.0, help="noise level of the damaged pictures, in units of [-1, 1] pictures")
    clean_share: float = knob(0.1, 0.0, 1.0, help="share of the pictures that stay clean")
    seed: int = knob(0, 0, help="decides which pictures stay clean, and their noise")

    def __post_init__(self) -> None:
        check_knobs(self)

    def clean_indices(self, total: int) -> set[int]:
        """The `round(clean_share * total)` pictures that stay clean."""
        order = np.random.default_rng((self.seed, 0)).permutation(total)
        return set(order[: round(self.clean_share * total)].tolist())

    def noise(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """The unit noise of picture `index`, float32 of `shape`."""
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, 1, index))))
        return torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))


def corrupt(pictures: Iterable[tuple[str, Tensor]], total: int, corruption: Corruption) -> Iterator[Sample]:
    """Damage `total` uint8 pictures. The clean version of a damaged picture is not kept anywhere."""
    clean = corruption.clean_indices(total)
    for index, (name, picture) in enumerate(pictures):
        z = picture.float() / 127.5 - 1
        sigma_noise = 0.0 if index in clean else corruption.sigma_noise
        if sigma_noise > 0:
            z = z + sigma_noise * corruption.noise(index, tuple(z.shape))
        yield Sample(name, z.half(), sigma_noise)


def write_corrupted(samples: Iterable[Sample], folder: str | Path, corruption: Corruption) -> int:
    """Write each sample as a safetensors file and one line of manifest.jsonl; returns how many were written.

    The manifest is written last: a folder without one is unfinished.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise AmbientSolveError(
            f"{folder} already holds a damaged data set. Damage is done once: choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, sample in enumerate(samples):
        file = f"{index:06d}.safetensors"
        save_file({"z": sample.z}, folder / file)
        rows.append({**asdict(corruption), "file": file, "name": sample.name, "sigma_noise": sample.sigma_noise})
    temporary = folder / (MANIFEST + ".part")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary.rename(folder / MANIFEST)
    return len(rows)


def read_corrupted(folder: str | Path) -> Iterator[Sample]:
    """Read a damaged data set: a manifest.jsonl with at least `file` and `sigma_noise` in each row, beside its files.

    A manifest of your own, over your own noisy pictures (safetensors with one float tensor `z`, (C, H, W), in [-1, 1]
    units), loads too.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise AmbientSolveError(
            f"{folder} has no {MANIFEST}: it is no damaged data set, or its writing was interrupted."
        )
    for number, line in enumerate((folder / MANIFEST).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{folder / MANIFEST}, line {number}"
        try:
            row = json.loads(line)
            file, sigma_noise = folder / row["file"], float(row["sigma_noise"])
            with safe_open(file, framework="pt") as stored:
                z = stored.get_tensor("z")
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise AmbientSolveError(f"{where}: {type(error).__name__}: {error}.") from None
        if not (0 <= sigma_noise < math.inf):
            raise AmbientSolveError(
                f"{where}: sigma_noise = {sigma_noise} is no noise level; expected 0 (clean) or more."
            )
        if z.ndim != 3 or not z.is_floating_point():
            raise AmbientSolveError(
                f"{where}: z is {z.dtype} {tuple(z.shape)}; expected floats (C, H, W) in [-1, 1] units."
            )
        yield Sample(row.get("name", row["file"]), z.half(), sigma_noise)


def fingerprint(samples: Iterable[Sample]) -> str:
    """A short hash of all pixels and noise levels, for the model card."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.z.numpy().tobytes() + repr(sample.sigma_noise).encode())
    return digest.hexdigest()[:16]
