"""Damage a data set once, keep what was done to it, and forget the clean pictures.

Which pictures stay clean, and what happens to each of the others, depends on the seed and their number; the damage of
picture `i` on (seed, i, source) alone. Reading the data again, in any order, in any process, gives the same damage, and
no later view of a picture can average its noise away or show what its mask hides.

Whoever knows the seed can undo the noise: see `SHARING`. Small seeds are guessed; training needs none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ambient_solve.data.captions import checked_caption
from ambient_solve.data.damages import Damage, Noise
from ambient_solve.data.images import SUFFIXES, open_image, open_mask, to_tensor
from ambient_solve.data.observation import checked_mask, observed
from ambient_solve.data.sample import Sample
from ambient_solve.data.seeds import generator, source_key
from ambient_solve.data.unfinished import same_pictures
from ambient_solve.data.units import PICTURE, in_prior_units, with_picture_units
from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.reading.limits import inside, parse_json
from ambient_solve.resume import remember
from ambient_solve.saving import save_tensors

MANIFEST = "manifest.jsonl"
"""File of a damaged folder with a row for each picture."""
RUN = "corruption.json"
"""File of a damaged folder with the settings of the damage."""
SHARING = """A damaged folder keeps no secret from whoever holds it: its noise can be drawn again from the seed, index
and source that it records, and be subtracted exactly. Before sharing it in place of the clean pictures, damage them
with a random seed of 64 bits or more, then delete corruption.json, contact-sheet.png, which shows some of the clean
pictures, and `seed` from every row of manifest.jsonl."""
TENSORS = ("z", "mask", "signs", "maps")
"""Fields of a sample that are stored as tensors."""
LEVELS = ("sigma_noise", "sigma_min", "sigma_max")
"""Fields of a sample that are noise levels."""
COMPLEX = 2
"""Channels of a complex picture, which is the same to prior and user: its levels have one unit."""


@dataclass(frozen=True)
class Corruption:
    """A plan of damage: one of several kinds of it to all but a share of the pictures.

    Raises:
        AmbientSolveError: no kind of damage, or kinds whose masks one data set cannot hold together.
    """

    seed: int = knob(0, 0, help="decides which pictures stay clean, and the damage of the others")
    clean_share: float = knob(0.1, 0.0, 1.0, help="share of the pictures that stay clean")
    damages: tuple[Damage, ...] = (Noise(),)

    def __post_init__(self) -> None:
        check_knobs(self)
        given = self.damages if isinstance(self.damages, tuple) else ()
        if not given or not all(isinstance(d, Damage) for d in given):
            raise AmbientSolveError(
                f"damages = {self.damages!r}; a tuple of one kind of damage or more was expected, such as (Noise(),)."
            )
        hidden = {d.hides: d.name for d in self.damages if d.hides}
        if len(hidden) > 1:
            raise AmbientSolveError(
                f"One data set can hide {' or '.join(hidden)}, not both ({', '.join(hidden.values())}): damage the "
                "pictures into two folders, and train on each by itself."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What YAML holds of it."""
        return {"seed": self.seed, "clean_share": self.clean_share, "damages": [d.settings for d in self.damages]}

    def clean_indices(self, total: int) -> set[int]:
        """The `round(clean_share * total)` pictures that stay clean."""
        return {i for i, damage in enumerate(self.plan(total)) if damage is None}

    def plan(self, total: int) -> list[Damage | None]:
        """What happens to each of `total` pictures, None for the clean ones; shares are kept to within one picture."""
        order = np.random.default_rng((self.seed, 0)).permutation(total)
        clean = round(self.clean_share * total)
        share = np.cumsum([d.share for d in self.damages])
        ends = clean + np.round(share / share[-1] * (total - clean)).astype(int)
        plan: list[Damage | None] = [None] * total
        for damage, start, end in zip(self.damages, [clean, *ends[:-1]], ends, strict=True):
            for index in order[start:end]:
                plan[index] = damage
        return plan

    def random(self, index: int, source: str = "") -> np.random.Generator:
        """The random numbers of one picture; two sources share none.

        Args:
            index: Number of the picture.
            source: Name of its data set.

        Returns:
            A generator.
        """
        return generator(self.seed, 1, index, *source_key(source))

    def damaged(self, name: str, picture: Tensor, index: int, damage: Damage | None, source: str = "") -> Sample:
        """One picture after its damage.

        Args:
            name: File name of the picture.
            picture: (C, H, W), uint8, or floats in the units of the prior.
            index: Its number in `source`.
            damage: What happens to it; None leaves it clean.
            source: Name of the data set; with `index` it decides what is random.

        Returns:
            The sample.

        Raises:
            AmbientSolveError: the damage does not fit the picture.
        """
        z = picture.float() / 127.5 - 1 if picture.dtype == torch.uint8 else picture.float()
        sample, rng = Sample(name, z), self.random(index, source)
        try:
            if damage is not None:
                sample = replace(damage.apply(sample, rng), damage=damage.name)
            for kind in self.damages:
                sample = kind.whole(sample, rng) if sample.mask is None else sample
        except AmbientSolveError as error:
            raise AmbientSolveError(f"{name}: {error}") from None
        return replace(sample, z=sample.z.half())


def corrupt(
    pictures: Iterable[tuple[str, Tensor]], total: int, corruption: Corruption, skip: int = 0, source: str = ""
) -> Iterator[Sample]:
    """Damage pictures once and for all. The clean version of a damaged one is not kept anywhere.

    Args:
        pictures: (name, uint8 (C, H, W)), as `read_images` yields them.
        total: How many there are; which of them stay clean depends on it.
        corruption: Kinds of damage, the share that stays clean, and the seed.
        skip: The first pictures that are left out, as when a run goes on.
        source: Where they come from, in words that are the same each time; pictures of another source get other noise.

    Returns:
        One sample for each picture, in their order.
    """
    plan = corruption.plan(total)
    for index, (name, picture) in enumerate(pictures):
        if index == total:
            raise AmbientSolveError(f"{total} pictures were expected and more came: {name}.")
        if index >= skip:
            yield corruption.damaged(name, picture, index, plan[index], source)


def write_corrupted(
    pictures: Iterable[tuple[str, Tensor]],
    total: int,
    corruption: Corruption,
    folder: str | Path,
    source: str = "",
    options: Mapping[str, Any] | None = None,
) -> int:
    """Damage pictures into a folder: a safetensors file and a row of manifest.jsonl each.

    The manifest is written last: a folder without one is unfinished, and the same call goes on with it. What was done
    stands in corruption.json, see `read_settings`.

    Args:
        pictures: As for `corrupt`.
        total: How many there are.
        corruption: What is done to them.
        folder: Where to; made where it is missing.
        source: As for `corrupt`; kept in corruption.json.
        options: What was done to the pictures before, such as {"shrink": 2}; kept there too.

    Returns:
        `total`.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise AmbientSolveError(
            f"{folder} already holds a damaged data set. Damage is done once: choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    part, plan = folder / (MANIFEST + ".part"), corruption.plan(total)
    finished = _finished(folder, part)
    given = ({"source": source} if source else {}) | dict(options or {})
    remember(folder / RUN, {**corruption.settings, "total": total, **given}, bool(finished))
    again = lambda name, picture, i: corruption.damaged(name, picture, i, plan[i], source)  # noqa: E731
    pictures, index = same_pictures(pictures, finished, folder, again), len(finished)
    with part.open("a") as rows:
        for sample in corrupt(pictures, total, corruption, len(finished), source):
            file, damage = f"{index:06d}.safetensors", plan[index]
            tensors = {name: getattr(sample, name) for name in TENSORS}
            save_tensors({k: v.contiguous() for k, v in tensors.items() if v is not None}, folder / (file + ".part"))
            os.replace(folder / (file + ".part"), folder / file)
            row = {"file": file, "name": sample.name, **levels_of(sample)}
            row |= {"blur": sample.blur} if sample.blur else {}
            row |= {"damage": sample.damage, "parameters": damage.parameters if damage else {}}
            rows.write(json.dumps({**row, "seed": corruption.seed, "index": index}) + "\n")
            rows.flush()
            index += 1
    if index != total:
        raise AmbientSolveError(f"{total} pictures were expected, but {index} came.")
    os.replace(part, folder / MANIFEST)
    return total


def levels_of(sample: Sample) -> dict[str, float]:
    """The noise levels of a sample as a row of a manifest has them: in both units, but for complex pictures."""
    return with_picture_units({level: getattr(sample, level) for level in LEVELS}, levels_in_two_units(sample.z))


def levels_in_two_units(z: Tensor) -> tuple[str, ...]:
    """The levels that a row of a manifest states in both units: none for a complex picture `z` (2, H, W)."""
    return () if len(z) == COMPLEX else LEVELS


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What corruption.json says was done to the pictures in `folder`; empty where there is none, as in your own."""
    try:
        found = json.loads((Path(folder) / RUN).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _finished(folder: Path, part: Path) -> list[dict[str, Any]]:
    """The rows of the samples that an interrupted call has finished; what follows them in `part` is cut off."""
    rows, length = [], 0
    for line in part.read_bytes().splitlines(keepends=True) if part.is_file() else []:
        row = parse_json(line, f"A line of {part}") if line.endswith(b"\n") else None
        if row is not None and not (isinstance(row, dict) and {"file", "name"} <= set(row)):
            raise AmbientSolveError(f"{part} holds {row!r}, which is no row: choose another folder, or delete it.")
        if row is None or not inside(folder, row["file"]).is_file():
            os.truncate(part, length)
            break
        rows.append(row)
        length += len(line)
    return rows


def read_corrupted(
    folder: str | Path, channels: int = 3, follow_outside: bool = False, skipped: list[UnreadableFile] | None = None
) -> Iterator[Sample]:
    """Read a damaged data set: a manifest.jsonl with at least `file` and a noise level in each row, beside its files.

    The level is `sigma_noise_01`, where pixel values go from 0 to 1 (0 is clean), or `sigma_noise`, twice as large, in
    units of the prior; complex pictures have the second alone.

    A manifest of your own loads too. `file` is a safetensors file with a float `z` (C, H, W) in [-1, 1] units and,
    where not all was observed, a `mask` (1 or C, H, W) of 1 = observed (with `signs` or `maps` if it is a mask of
    coefficients or k-space, see `Sample`); or a picture, read with `channels` 1 or 3. A row may name a picture as its
    `mask`, in which white is missing, and give `sigma_min` and `sigma_max`, or `sigma_min_01` and `sigma_max_01`, and a
    `weight`, its chance to be drawn relative to the other pictures, and a `caption`, what it shows.

    Args:
        folder: The data set.
        channels: 1 or 3, of what is read from pictures.
        follow_outside: Whether its files may lie outside of it; only if you trust the manifest.
        skipped: Where given, what is wrong with a file that cannot be read is added here, and the others are read.

    Returns:
        The samples, in the order of the rows.

    Raises:
        AmbientSolveError: a row or a file that is not as described here.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise AmbientSolveError(
            f"{folder} has no {MANIFEST}: it is no damaged data set, or its writing was interrupted and the same "
            "command goes on with it."
        )
    for number, line in enumerate((folder / MANIFEST).read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{folder / MANIFEST}, line {number}"
            try:
                row = parse_json(line, "it")
                sample = _read_row(folder, row, channels, follow_outside)
            except (UnreadableFile, SafetensorError, OSError) as error:
                if skipped is None:
                    raise AmbientSolveError(f"{where}: {_sentence(error)}") from None
                named = isinstance(error, UnreadableFile)
                skipped.append(error if named else UnreadableFile(row["file"], f"cannot be read: {reason(error)}."))
            except AmbientSolveError as error:
                raise AmbientSolveError(f"{where}: {error}") from None
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise AmbientSolveError(f"{where}: {_sentence(error)}") from None
            else:
                yield sample


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, AmbientSolveError) else f"{type(error).__name__}: {reason(error)}."


def _read_row(folder: Path, row: dict[str, Any], channels: int, follow_outside: bool) -> Sample:
    if not isinstance(row, dict) or "file" not in row or not {"sigma_noise", "sigma_noise_01"} & set(row):
        raise AmbientSolveError(f"{row!r} is no row; at least {{'file': ..., 'sigma_noise_01': ...}} was expected.")
    two_units, row = [name for name in LEVELS if name + PICTURE in row], in_prior_units(row, LEVELS)
    file, sigma_noise = inside(folder, row["file"], follow_outside), float(row["sigma_noise"])
    sigma_min, sigma_max = (float(row.get(level, 0.0)) for level in LEVELS[1:])
    if not (0 <= sigma_noise < math.inf and sigma_min >= 0 and sigma_max >= 0):
        raise AmbientSolveError(
            f"sigma_noise = {sigma_noise}, sigma_min = {sigma_min}, sigma_max = {sigma_max} are no levels; expected 0 "
            "(clean) or more."
        )
    if not 0 <= (weight := float(row.get("weight", 1.0))) < math.inf:
        raise AmbientSolveError(f"weight = {weight} is no chance to be drawn; expected 0 (never) or more.")
    if file.suffix.lower() in SUFFIXES:
        tensors = {"z": to_tensor(open_image(file), channels).float() / 127.5 - 1}
    else:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in TENSORS if name == "z" or name in stored.keys()}
    if row.get("mask"):
        tensors["mask"] = open_mask(inside(folder, row["mask"], follow_outside))
    tensors = _checked(**tensors)
    if two_units and not levels_in_two_units(tensors["z"]):
        raise AmbientSolveError(
            f"z has {COMPLEX} channels, real and imaginary part, and {two_units[0]}{PICTURE} is a level of photographs "
            f"in [0, 1]: give {two_units[0]}, in units of z."
        )
    clean = sigma_noise == sigma_min == 0 and tensors["mask"] is None
    damage = str(row.get("damage", "clean" if clean else "damaged"))
    blur = float(row.get("blur", 0.0))
    if not 0 <= blur < math.inf:
        raise AmbientSolveError(f"blur = {blur} is no deviation in pixels; expected 0 (none) or more.")
    name, z = str(row.get("name", row["file"])), tensors.pop("z")
    return Sample(
        name,
        z,
        sigma_noise,
        sigma_min,
        sigma_max,
        **tensors,
        damage=damage,
        blur=blur,
        weight=weight,
        caption=checked_caption(row.get("caption", "")),
    )


def _checked(
    z: Tensor, mask: Tensor | None = None, signs: Tensor | None = None, maps: Tensor | None = None
) -> dict[str, Tensor | None]:
    """The tensors of a sample as `Sample` has them, once they are known to fit together."""
    if z.ndim != 3 or not z.is_floating_point():
        raise AmbientSolveError(f"z is {z.dtype} {tuple(z.shape)}; expected floats (C, H, W) in [-1, 1] units.")
    z = z.half()
    if not bool(z.isfinite().all()):
        raise AmbientSolveError("z has values that are no numbers or too large for [-1, 1] units.")
    mask = None if mask is None else checked_mask(mask, z, "The mask")
    if signs is None and maps is None:
        return {"z": z if mask is None else observed(z, mask), "mask": mask, "signs": None, "maps": None}
    if mask is None or (signs is not None and maps is not None):
        raise AmbientSolveError(
            "signs or maps stand beside a mask of coefficients or k-space, and one of the two alone."
        )
    if signs is not None and (signs.shape != z.shape or not bool((signs.abs() == 1).all())):
        raise AmbientSolveError(f"signs is {tuple(signs.shape)}; expected +1 and -1, {tuple(z.shape)}.")
    if maps is not None and not (
        maps.is_complex() and maps.ndim == 3 and maps.shape[1:] == z.shape[1:] and len(z) == 2
    ):
        raise AmbientSolveError(
            f"maps is {maps.dtype} {tuple(maps.shape)}, z is {tuple(z.shape)}; expected complex (coils, H, W) and "
            "(2, H, W)."
        )
    return {
        "z": z,
        "mask": mask,
        "signs": None if signs is None else signs.to(torch.int8),
        "maps": None if maps is None else maps.to(torch.complex64),
    }


def fingerprint(samples: Iterable[Sample]) -> str:
    """A short hash of all pixels, levels and masks, for the model card."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.z.numpy().tobytes() + repr(sample.sigma_noise).encode())
        if sample.sigma_min or sample.sigma_max:
            digest.update(repr((sample.sigma_min, sample.sigma_max)).encode())
        if sample.weight != 1.0:
            digest.update(f"weight {sample.weight!r}".encode())
        if sample.blur:
            digest.update(repr(sample.blur).encode())
        for name in TENSORS[1:]:
            if getattr(sample, name) is not None:
                digest.update(name.encode() + getattr(sample, name).numpy().tobytes())
    return digest.hexdigest()[:16]
