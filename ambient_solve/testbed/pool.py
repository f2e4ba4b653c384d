"""A pool of pictures: known shares of clean and of bad ones, damaged once; what is known of each is sealed.

FOLDER/pool.json and FOLDER/pool/ are for participants: a manifest with the id of each picture, a hash of its content,
and what its source says of it: "clean" or nothing. Of the mislabeled pictures that is a lie. FOLDER/sealed/ is for the
organizer: kind, damage and levels of each picture, and the held-out pictures that priors are scored on. pool.json
commits to what is sealed without giving it away, so that nobody can change it later.

Whoever knows the seed can undo the noise: for a competition draw a random one, `--seed` with 18 digits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ambient_solve.data.corruption import MANIFEST, Corruption, levels_of, read_corrupted
from ambient_solve.data.damages import Damage, Downsampling, GaussianBlur, JpegBlocks, Noise
from ambient_solve.data.leaks import ALIKE, alikeness, damaged_copies
from ambient_solve.data.sample import Sample
from ambient_solve.data.seeds import generator
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.reading.limits import parse_json
from ambient_solve.saving import replace_text, save_tensors
from ambient_solve.testbed.domains import Named
from ambient_solve.testbed.record import hash_of, read_record, write_record

RECORD = "pool.json"
"""File of the public record."""
PICTURES = "pool"
"""Folder of the pictures, a damaged data set that states no damage."""
SEALED = "sealed"
"""Folder that participants are not given."""
TRUTH = "truth.jsonl"
"""File of it: a row for each picture."""
HELD_OUT = "held_out.safetensors"
"""File of it: `x`, uint8 (N, C, H, W), on which priors are scored."""
STATED = "clean"
"""What the source of a picture may say of it."""
TRUSTED = 0.5
"""Share of the clean pictures whose source says that they are clean."""
LEAST = 20
"""Clean pictures that a pool needs at least."""
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "noise": (Noise(sigma=0.2), Noise(sigma=0.4)),
    "blur": (GaussianBlur(width=0.8), GaussianBlur(width=1.2)),
    "jpeg": (JpegBlocks(quality=10), JpegBlocks(quality=25)),
    "low-resolution": (Downsampling(factor=2),),
}
"""What may happen to a picture of a kind; levels in units of [-1, 1]."""


@dataclass(frozen=True)
class Shares:
    """The share of each kind of picture in a pool; they are divided by their sum.

    Raises:
        AmbientSolveError: none is clean.
    """

    clean: float = knob(0.2, 0.0, 1.0, "whole and undamaged; half of them say so")
    noise: float = knob(0.25, 0.0, 1.0, "with Gaussian noise")
    blur: float = knob(0.15, 0.0, 1.0, "out of focus")
    jpeg: float = knob(0.1, 0.0, 1.0, "compressed strongly")
    low_resolution: float = knob(0.1, 0.0, 1.0, "enlarged from half the size")
    duplicate: float = knob(0.05, 0.0, 1.0, "near-copies of clean pictures of the pool")
    foreign: float = knob(0.1, 0.0, 1.0, "clean, of another domain")
    mislabeled: float = knob(0.05, 0.0, 1.0, "damaged, and said to be clean")

    def __post_init__(self) -> None:
        check_knobs(self)
        if not self.clean > 0:
            raise AmbientSolveError(f"clean={self.clean} was given; a pool needs some clean pictures.")

    def counts(self, own: int, foreign: int) -> dict[str, int]:
        """How many pictures of each kind there are, of so many pictures of the domain and of another.

        Args:
            own: Pictures of the domain; a near-copy takes none.
            foreign: Pictures of another domain, which may be too few for their share.

        Returns:
            Numbers by kind.
        """
        share = {k.replace("_", "-"): v for k, v in asdict(self).items()}
        taken = sum(v for k, v in share.items() if k not in ("foreign", "duplicate"))
        found = {k: int(own * v / taken) for k, v in share.items()}
        found["foreign"] = min(found["foreign"], foreign)
        found["duplicate"] = min(found["duplicate"], found["clean"])
        return found


@dataclass(frozen=True)
class Pool:
    """A pool as it was read.

    Attributes:
        folder: Where it is.
        record: What pool.json says.
        samples: The pictures, named by their ids, as if all were clean.
        stated: What its source says of each, by id: "clean" or "".
    """

    folder: Path
    record: dict[str, Any]
    samples: list[Sample]
    stated: dict[str, str]

    @property
    def side(self) -> int:
        """Side of the pictures, in pixels."""
        return int(self.record["side"])

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        return int(self.record["channels"])


@dataclass(frozen=True)
class Truth:
    """What is sealed: a row for each id, and the held-out pictures, uint8 (N, C, H, W)."""

    rows: dict[str, dict[str, Any]]
    held_out: Tensor


def picture_id(z: Tensor) -> str:
    """The id of a stored picture: a hash of its content, float16 (C, H, W)."""
    return hash_of(z.numpy().tobytes(), repr(tuple(z.shape)).encode())


def make_pool(
    folder: Path,
    domain: str,
    pictures: Sequence[Named],
    foreign: Sequence[Named],
    *,
    shares: Shares,
    held_out: int = 48,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a pool; the same call writes the same one.

    Args:
        folder: Where to; must not hold a pool.
        domain: What the record calls the domain.
        pictures: Clean pictures of it, squares of one size.
        foreign: Clean pictures of another domain, of that size.
        shares: How many of each kind.
        held_out: Pictures to score on, which the pool does not hold.
        seed: Decides which picture is what, and all damage.

    Returns:
        The public record.

    Raises:
        AmbientSolveError: there is a pool already, or there are too few pictures.
    """
    if (folder / RECORD).exists():
        raise AmbientSolveError(f"{folder} already holds a pool. Damage is done once: choose another folder.")
    own, apart = _split(pictures, held_out, seed)
    counts = shares.counts(len(own), len(foreign))
    if counts["clean"] < LEAST:
        raise AmbientSolveError(
            f"{len(pictures)} pictures make a pool with {counts['clean']} clean ones, {LEAST} are needed: give more, "
            "or hold out fewer."
        )
    made = _pictures(own, foreign, counts, seed)
    made = dict(sorted({picture_id(s.z): (s, row) for s, row in made}.items()))
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    (folder / SEALED).mkdir(exist_ok=True)
    public, truth = [], []
    for name, (sample, row) in made.items():
        save_tensors({"z": sample.z.contiguous()}, folder / PICTURES / f"{name}.safetensors")
        public.append({"file": f"{name}.safetensors", "name": name, "sigma_noise": 0.0, "stated": row.pop("stated")})
        truth.append({"id": name, **row, **levels_of(sample)})
    manifest = "".join(json.dumps(row) + "\n" for row in public)
    replace_text(folder / PICTURES / MANIFEST, manifest)
    replace_text(folder / SEALED / TRUTH, "".join(json.dumps(row) + "\n" for row in truth))
    save_tensors({"x": torch.stack([p for _, p in apart])}, folder / SEALED / HELD_OUT)
    replace_text(folder / SEALED / "seed.json", json.dumps({"seed": seed}) + "\n")
    height = pictures[0][1].shape
    content = {
        "domain": domain,
        "side": height[-1],
        "channels": height[0],
        "pictures": len(made),
        "kinds": dict(Counter(row["kind"] for _, row in made.values())),
        "held_out": len(apart),
        "manifest": hash_of(manifest.encode()),
        "commitment": _commitment(folder),
    }
    return write_record(folder / RECORD, "pool", content, {})


def _commitment(folder: Path) -> str:
    """The hash of all that is sealed, the seed among it, which keeps the rest from being guessed."""
    names = (TRUTH, HELD_OUT, "seed.json")
    missing = [n for n in names if not (folder / SEALED / n).is_file()]
    if missing:
        raise AmbientSolveError(
            f"{folder / SEALED} lacks {missing[0]}: whoever made the pool has it, and scores the entries."
        )
    return hash_of(*((folder / SEALED / n).read_bytes() for n in names))


def _split(pictures: Sequence[Named], held_out: int, seed: int) -> tuple[list[Named], list[Named]]:
    """What the pool is made of, and what is held out, of which no near-copy stays in the pool."""
    order = generator(seed, 9).permutation(len(pictures))
    if not 2 <= held_out < len(pictures):
        raise AmbientSolveError(f"{held_out} of {len(pictures)} pictures cannot be held out; at least 2, and not all.")
    apart = [pictures[i] for i in order[:held_out]]
    own = [pictures[i] for i in order[held_out:]]
    groups = damaged_copies(apart, [Sample(n, p) for n, p in own], copy_threshold([p for _, p in apart]))
    near = {name for group in groups for name in group[1:]}
    return [(n, p) for n, p in own if n not in near], apart


def copy_threshold(held_out: Sequence[Tensor]) -> float:
    """The correlation from which on a picture counts as a copy of one that is held out.

    Heads and faces are alike without being copies: how much alike two held-out pictures are says what that means.
    """
    usual = float(alikeness(held_out, [Sample("", p) for p in held_out]).fill_diagonal_(-1.0).max())
    return max(ALIKE, (1 + usual) / 2)


def _pictures(
    own: Sequence[Named], foreign: Sequence[Named], counts: dict[str, int], seed: int
) -> list[tuple[Sample, dict[str, Any]]]:
    """Each picture of the pool as it is stored, with its sealed row and what its source says."""
    made: list[tuple[Sample, dict[str, Any]]] = []
    at, rng = 0, generator(seed, 10)
    for kind, number in counts.items():
        for k in range(number):
            index, stated, damage = len(made), "", None
            if kind == "duplicate":
                name, picture = own[k]  # the first pictures are the clean ones
                picture = _near_copy(picture, rng)
            elif kind == "foreign":
                name, picture = foreign[int(rng.integers(len(foreign)))]
            else:
                name, picture = own[at]
                at += 1
            if kind == "mislabeled" or (kind == "clean" and k < TRUSTED * number):
                stated = STATED
            damages = DAMAGES.get(kind) or (sum(DAMAGES.values(), ()) if kind == "mislabeled" else ())
            if damages:
                damage = damages[int(rng.integers(len(damages)))]
            sample = Corruption(seed=seed, damages=(damage or Noise(),)).damaged(name, picture, index, damage)
            sample = replace(sample, z=_off_grid(sample.z, generator(seed, 11, index)))
            parameters = damage.parameters if damage else {}
            row = {"kind": kind, "damage": sample.damage, "parameters": parameters, "source": name, "stated": stated}
            made.append((replace(sample, name=str(index)), row))
    return made


def _off_grid(z: Tensor, rng: np.random.Generator) -> Tensor:
    """A stored picture, moved by less than half a gray level: values of 8 bits would give away what is undamaged."""
    dither = torch.from_numpy(rng.uniform(-0.5, 0.5, tuple(z.shape)) / 127.5)
    return (z.double() + dither).half()


def _near_copy(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture a little paler and compressed, as copies on the web are: uint8 again."""
    paler = 127.5 + float(rng.uniform(0.85, 0.95)) * (picture.float() - 127.5)
    copied = JpegBlocks(quality=90).degrade(paler / 127.5 - 1, rng)
    return ((copied + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def read_pool(folder: Path) -> Pool:
    """Read what participants are given of a pool.

    Args:
        folder: Of the pool.

    Returns:
        The pool.

    Raises:
        AmbientSolveError: there is none, or it was changed.
    """
    record = read_record(folder / RECORD, "pool")
    manifest = folder / PICTURES / MANIFEST
    if not manifest.is_file() or hash_of(manifest.read_bytes()) != record["manifest"]:
        raise AmbientSolveError(f"{manifest} is not that of {folder / RECORD}: fetch the pool again.")
    samples = list(read_corrupted(folder / PICTURES, record["channels"]))
    changed = next((s.name for s in samples if picture_id(s.z) != s.name), None)
    if changed is not None:
        raise AmbientSolveError(f"Picture {changed} of {folder} was changed: its content has another hash.")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    return Pool(folder, record, samples, {row["name"]: row["stated"] for row in rows})


def read_truth(pool: Pool) -> Truth:
    """Read what is sealed.

    Args:
        pool: The pool.

    Returns:
        The truth.

    Raises:
        AmbientSolveError: it is not here, or not what the pool has committed to.
    """
    if _commitment(pool.folder) != pool.record["commitment"]:
        raise AmbientSolveError(f"{pool.folder / SEALED} is not what {RECORD} has committed to: it was changed.")
    lines = (pool.folder / SEALED / TRUTH).read_bytes().splitlines()
    rows = [parse_json(line, f"A line of {TRUTH}") for line in lines]
    held_out = load_file(pool.folder / SEALED / HELD_OUT)["x"]
    return Truth({row["id"]: row for row in rows}, held_out)


def is_sealed_here(pool: Pool) -> bool:
    """Whether the sealed part of a pool is beside it, as with the organizer, or where one tries the testbed alone."""
    return (pool.folder / SEALED / TRUTH).is_file()
